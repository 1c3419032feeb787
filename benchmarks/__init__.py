"""What recording costs and what a backlog costs, beside yardsticks measured in the same run."""
