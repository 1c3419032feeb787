"""An HTTP proxy before an engine of DynamoDB's that breaks what a schedule says, and logs it."""
