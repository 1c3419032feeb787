"""Secrets that a text names in a command, a header, an address or another language, and texts that
only look like it."""

from __future__ import annotations

import hashlib
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receipt_label import mask
from receipt_label.sensitive import mask_text
from tests.unit.test_masking import ADVERSARIAL, SECRET_KEYS

# Dummies, put together here so that no scanner takes them for real ones.
LETTERS = "kQwErTyUiOpAsDfGhJkLzXcVbNmqWeRtYuIoPaSdFgHjKlZx"
AWS_ID = "AKIA" + "IOSFODNN7EXAMPLE"
AWS_SECRET = "wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY"
AWS_OTHER = "aB3dE5fG7hJ9kL1mN3pQ" + "5rS7tU9vW1xY3zA5bC7d"

MASKED = [
    ("mysql -pHUNTER shop", "mysql -p[secret] shop"),
    ("mysql -u root -phunter2 shop", "mysql -u root -p[secret] shop"),
    ("sudo /usr/bin/mysqldump -h db -p'two words' shop",
     "sudo /usr/bin/mysqldump -h db -p'[secret]' shop"),
    ("ssh db 'mariadb -phunter2'", "ssh db 'mariadb -p[secret]'"),
    ("Command '['mysql', '-phunter2', '-e', 'x']' failed",
     "Command '['mysql', '-p[secret]', '-e', 'x']' failed"),
    ("sshpass -p hunter2 ssh me@db", "sshpass -p [secret] ssh me@db"),
    ("mongosh db -u ann -p hunter", "mongosh db -u ann -p [secret]"),
    ("docker login -u ann -p hunter reg", "docker login -u ann -p [secret] reg"),
    ("redis-cli -h db -a hunter ping", "redis-cli -h db -a [secret] ping"),
    ("curl -u ann:hunter https://x", "curl -u ann:[secret] https://x"),
    ('curl -u "ann:hunter" https://x', 'curl -u "ann:[secret]" https://x'),
    ("mysql --password HUNTER shop", "mysql --password [secret] shop"),
    ("mysql --password=HUNTER shop", "mysql --password=[secret] shop"),
    ("x --db-password hunter -v", "x --db-password [secret] -v"),
    ("x --passwd 'two words'", "x --passwd '[secret]'"),
    ("x --client-secret hunter", "x --client-secret [secret]"),
    ("x --secret-access-key hunter", "x --secret-access-key [secret]"),
    ("x --auth-token abc12345 y", "x --auth-token [secret] y"),
    ("['x', '--password', 'hunter', 'y']", "['x', '--password', '[secret]', 'y']"),
    ("Authorization: Bearer abcdefghijkl", "Authorization: Bearer [secret]"),
    ("Authorization:\tBearer\tabcdefghijkl", "Authorization:\tBearer\t[secret]"),
    ('"Authorization": ["Bearer abcdefghijkl"]', '"Authorization": ["Bearer [secret]"]'),
    ("the header Authorization Bearer abcdef", "the header Authorization Bearer [secret]"),
    (f"sent Bearer {LETTERS[:16]}", "sent Bearer [secret]"),
    ("passwort=geheim", "passwort=[secret]"),
    ("Passwort: geheim", "Passwort: [secret]"),
    ("Benutzerpasswort: geheim", "Benutzerpasswort: [secret]"),
    ("KENNWORT = geheim", "KENNWORT = [secret]"),
    ("mot de passe : soleil", "mot de passe : [secret]"),
    ("mot_de_passe=soleil mdp=lune", "mot_de_passe=[secret] mdp=[secret]"),
    ("contraseña=gato", "contraseña=[secret]"),
    ("CONTRASEÑA: gato", "CONTRASEÑA: [secret]"),
    (unicodedata.normalize("NFD", "contraseña=gato"),
     unicodedata.normalize("NFD", "contraseña=[secret]")),
    ('{"contrasena": "gato"}', '{"contrasena": "[secret]"}'),
    ("senha: gato", "senha: [secret]"),
    ("wachtwoord=kat", "wachtwoord=[secret]"),
    ("lösenord: katt", "lösenord: [secret]"),
    ("passord: katt adgangskode: kat", "passord: [secret] adgangskode: [secret]"),
    ("salasana=kissa", "salasana=[secret]"),
    ("hasło: kot heslo: kocka", "hasło: [secret] heslo: [secret]"),
    ("jelszó=macska", "jelszó=[secret]"),
    ("şifre=kedi parola=kedi", "şifre=[secret] parola=[secret]"),
    ("пароль: кошка", "пароль: [secret]"),
    ("密码\uff1amao123", "密码\uff1a[secret]"),
    ("パスワード: neko", "パスワード: [secret]"),
    ("비밀번호=goyangi", "비밀번호=[secret]"),
    ("kata sandi: kucing", "kata sandi: [secret]"),
    ("كلمة المرور: qitta", "كلمة المرور: [secret]"),
    (f"key sk-{LETTERS}.", "key [secret]."),
    (f"key sk-{LETTERS[:20]}", "key [secret]"),
    (f"key sk-{LETTERS.lower()[:32]}", "key [secret]"),
    (f"{AWS_ID} {AWS_SECRET}", "[secret] [secret]"),
    (f"aws: {AWS_OTHER}", "aws: [secret]"),
    (f"my secret {AWS_OTHER}, is it", "my secret [secret], is it"),
    (f'"SecretAccessKey": "{AWS_SECRET}"', '"SecretAccessKey": "[secret]"'),
    (f"AKID={AWS_ID}\nSAK={AWS_SECRET}\n", "AKID=[secret]\nSAK=[secret]\n"),
    ('"SessionToken": "FwoGZXIvYXdzEBYaDKq1"', '"SessionToken": "[secret]"'),
    ('{"dbPassword": "hunter"}', '{"dbPassword": "[secret]"}'),
    ("clientSecret=hunter", "clientSecret=[secret]"),
    ("postgres://u:pa/ss@host/db", "postgres://[secret]@host/db"),
    ("postgres://u:pa/s/s/@host:5432/db", "postgres://[secret]@host:5432/db"),
    ("redis://:pa/ss@host", "redis://[secret]@host"),
    ("postgres://u:p@ss@host/db", "postgres://[secret]@host/db"),
    (f"OPENAI_KEY={'0123456789abcdef' * 2}", "OPENAI_KEY=[secret]"),
    (f"AZURE_OPENAI_KEY={'0123456789abcdef' * 2};", "AZURE_OPENAI_KEY=[secret];"),
    (f'"GOOGLE_MAPS_KEY": "{LETTERS[:20]}1"', '"GOOGLE_MAPS_KEY": "[secret]"'),
    ("DB_PASS=hunter2 retry", "DB_PASS=[secret] retry"),
    ("SMTP_PASS: hunter2", "SMTP_PASS: [secret]"),
    ("smtp_pass: hunter", "smtp_pass: [secret]"),
    ("user=ann pass=hunter", "user=ann pass=[secret]"),
    ("https://x/?user=ann&pass=hunter2", "https://x/?user=ann&pass=[secret]"),
    ("{'user': 'ann', 'pass': 'hunter'}", "{'user': 'ann', 'pass': '[secret]'}"),
    ("Endpoint=sb://x;SharedAccessKey=hunter=", "Endpoint=sb://x;SharedAccessKey=[secret]"),
    ("https://api.telegram.org/bot1234567890:AA" + LETTERS[:33] + "/send",
     "https://api.telegram.org/bot[secret]/send"),
    ("token=abc-123456", "token=[secret]"),
    ("token=nightly-build-2024aB3dE5", "token=[secret]"),
    ("api key: none-of-yours", "api key: [secret]"),
    ("mdp: 3141", "mdp: [secret]"),
    ("sk-learn-pipeline-" + LETTERS[:20] + "1", "[secret]"),
    ("sk-proj-learn-pipeline-2024", "[secret]"),
    ("sk-ant-learn-pipeline-2024 sk-or-v1-learn-2024", "[secret] [secret]"),
    ("amqp://u:p/a@s@host, and so on", "amqp://[secret]@host, and so on"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), MASKED)
def test_a_secret_is_known_by_what_names_it(text: str, expected: str) -> None:
    """A command's option, a header, an address, the word for a password: the rest stays."""
    assert mask(text) == expected


SURVIVORS = [
    "mysql -u root -p shop",  # asks for it
    "mysql -P3306 -h db",
    "find /var/lib/mysql -print -path x",
    "docker run --name mysql -p3306:3306 -d mysql",
    "docker run -p 8080:80 mongo",
    "mkdir -p receipts/2026 && cp -pr a b",
    "ps -aux | grep mysql",
    "mysql db; ssh -p2222 host",
    "curl -u ann https://x -a",
    "patch -p1 < fix.diff",
    "python -u label.py -p fast",
    "the option --password is required",
    "use --password or --token for it",
    "--max-token 5 --token-count 3 --next-token eyabcdef1234",
    "--token 12 of 300",
    'add("--api-key", help="which to use")',
    "--secret-name x --password-file /run/pw",
    "--api-key-file key.txt --keyboard",
    "the bearer authentication scheme",
    "Bearer authentication is required",
    "bearer TokenAuthentication of a framework",
    "Authorization is required for this",
    "Authorization header missing",
    "Passwort vergessen",
    "das Passwort ist falsch",
    "mot de passe oublié",
    "la contraseña no es válida",
    "parola: ciao",
    "desenhar=1 desenha: x",
    "tests passed: 12, passes: 3",
    "compassed=1 trespasser: yes",
    "the passenger: Ann, surpassed=2",
    "sk-learn",
    "sk-learn-RandomForestClassifier",
    "sk-internationalization",
    "sk-RandomForestClassifier",
    "task-ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef",
    "disk-usage-of-the-machine-that-labels",
    f"aws commit {hashlib.sha1(b'x', usedforsecurity=False).hexdigest()}",
    f"aws commit {hashlib.sha1(b'x', usedforsecurity=False).hexdigest().upper()}",
    f"an id of forty {AWS_OTHER}",  # of nobody's that is named: ids tell calls apart
    f"aws {AWS_OTHER}x",
    f"aws {AWS_OTHER[:-1]}",
    f"aws STOREno{'0' * 28}12345",
    f"aws s3 cp {'/Users/Ann/Lab9/2026/Nov/St/A/Receipt-A'.replace('-', '7')}Z x",
    f"aws {'ReceiptLabelPipelineOfTheStore2026November'[:40]}",
    f"aws {'receipt/LabelPipeline/OfTheStore2026November'[:40]}",
    "http://host:8080/path/@user",
    "https://api.example.com:443/v1/@me/x",
    "see https://docs.example.com/a:b for @ann",
    "file:///C:/Users/ann@corp/receipt.png",
    "http://[::1]:8080/u@x",
    "docker://registry:5000/image@sha256",
    "https://example.com/@ann/receipts:latest",
    "sk-learn-pipeline-model-v2-2024",
    "sk-estimator-20240101-large",
    "sk-learn-pipeline-model-v2-2024, fitted",
    "token=nightly-build-2024",
    "api key: none",
    "api_key=None, retry",
    "credentials: missing",
    '{"credentials": "missing"}',
    "mdp: 3",
    "pass=12 fail=3",
    "pass=true",
    "first pass: receipts, tests pass: 12",
    "first_pass=ocr bypass=all compass: north",
    f"IDEMPOTENCY_KEY={hashlib.md5(b'x', usedforsecurity=False).hexdigest()}",
    "S3_KEY=receipts/2026/11/0001.png",
    "OPENAI_KEY=none CONFIG_KEY=short1",
    "SharedAccessKeyName=RootManage",
    "pa-ssion-for-receipts-of-the-store-in-november-2026",
    f"pa-{hashlib.sha1(b'x', usedforsecurity=False).hexdigest()}",
    "jina_embeddings_v3_base_en_retrieval_2024",
    "bedrock-api-key-rotation-schedule-2024",
    "sb_secret_rotation_interval_2024",
    "sk_learn_pipeline_model_of_the_store_2024",
    "fc-layers-of-the-model-2024-large-variant",
    "at 12:30:05 1234567890:AA and so on, v1//0",
    "https://discord.com/api/webhooks/ is documented",
    "ratio 3:4, at 12:30:05, a=b, c:d",
]


@pytest.mark.parametrize("text", SURVIVORS)
def test_what_only_looks_like_it_stays(text: str) -> None:
    """Ports, paths, hashes, words of programs and of people."""
    assert mask(text) is text


FOREIGN_KEYS = (
    "passwort Passwort benutzerPasswort db-kennwort mot_de_passe motDePasse mdp contraseña "
    "CONTRASEÑA contraseña_usuario contrasena senha wachtwoord lösenord passord adgangskode "
    "salasana hasło heslo jelszó şifre пароль Пароль 密码 パスワード 비밀번호 kata_sandi"
).split()


@pytest.mark.parametrize("key", FOREIGN_KEYS)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_key_names_a_secret_in_other_languages(key: str, form: str) -> None:
    """Whatever the case, the separators, and how accents are written."""
    key = unicodedata.normalize(form, key)  # type: ignore[arg-type]
    assert mask({key: "x"}) == {key: "[secret]"}


@pytest.mark.parametrize("key", ["desenho", "größe", "straße", "passage", "überweisung", "数量"])
def test_other_words_name_none(key: str) -> None:
    """Accents alone are no secret."""
    assert mask({key: "x"}) == {key: "x"}


PIECES = [
    "-p", " -p", " -pa", "mysql ", "mysql -p", "mysql -pa ", "curl -u a:", "sshpass -p ", "'-p', ",
    "bin/mysql", "docker login -p a", "--a", "--a-", "--aa-bb-cc-", "--token ", "--token a",
    "'--password', ", "Authorization Bearer ", "Authorization: Bearer\t", "authorization: ",
    "Bearer aB", "Bearer aBcDeF", "passwort", "passwort=", "passwort: ", "mot de ", "mot de passe:",
    "contraseña", "contraseña=", "senha=", "parola", "parola=", "密码\uff1a", "kh", "sk-aB",
    "sk-aBcDeFg", "sk-abcdef", "aws ", "aws aB3", "aB3", "aB3/", f"{AWS_SECRET} ",
    f"aws {AWS_SECRET} ", "://a:/", "://a:b/", "://a:b/c@", "://a:b@c@", "://:/a", "://a:1/",
    "a@b@", "secretaccesskey", "secretaccesskey=", "accesstoken", 'apassword": ',
    "pa-", "pa-A", "pa-aa-", "sk-abc-", "sk-learn-v2-", "token=abc-", "token: abc-abc-1 ", "_KEY=",
    "A_KEY=", "A_KEY=1", "A_KEY: '", "pass=", "DB_PASS: ", "&pass=a", "smtp_pass", "123456789:AA",
    "1//0", "bedrock-api-key-", "sk_0", "jina_", "hvs.", "tskey-", "sntrys_", "discord.com/api/",
    "discord.com/api/webhooks/1234567/", "NRAK-", "sb_secret_", "sb_secret_abc_", "api key: none ",
    "mdp: 3 ", "-----BEGIN PGP PRIVATE KEY BLOCK-----", "ABSK", "AGE-SECRET-KEY-",
]  # fmt: skip


TAIL = " @ :// = : ? & -p mysql"  # so that every pattern is tried


def seconds(text: str) -> float:
    """Return the processor time of a mask."""
    begin = time.process_time()
    mask_text(text)
    return time.process_time() - begin


def assert_linear(piece: str, beginning: str = "", size: int = 1 << 20) -> None:
    """A mask of a megabyte takes less than 64 times as long as one of a sixteenth of it."""
    small, large = (
        beginning + piece * (length // len(piece)) + TAIL for length in (size // 16, size)
    )
    ratios = []
    for _ in range(4):
        ratios.append(seconds(large) / max(seconds(small), 1e-4))
        if ratios[-1] < 64:
            return
    pytest.fail(f"{piece!r}: {ratios}")


@pytest.mark.no_cover
@pytest.mark.timeout(60)
@pytest.mark.parametrize("piece", [*PIECES, *ADVERSARIAL])
def test_a_text_sixteen_times_as_long_takes_no_more_than_some_times_as_long(piece: str) -> None:
    """Linear up to a megabyte: where a pattern enters a run again, it is 256 times."""
    assert_linear(piece, size=1 << (20 if piece in PIECES else 18))


BEGINNINGS = [
    ("sk-", "aB"), ("sk-", "a"), ("sk-", "Ab"), ("Bearer ", "aB"), ("Bearer ", "aa."),
    ("mysql -p", "a"), ("mysql ", "-p "), ("mysql ", " -u a"), ("mysql -p'", "a\\"),
    ("Authorization Bearer ", "a"), ("://a:", "b"), ("://a:/", "b/"), ("://a:b@", "c@"),
    ("://a:b/c@", "d"), ("--", "a-"), ("--password ", "a"), ("--token ", "a"), ("passwort=", "a"),
    ('passwort="', "\\"), ("passwort: '", "a"), ("aws ", "aB3"), ("aws ", "a/"),
    ("dbpassword", "="), ("sk-", "abc-"), ("sk-abc", "-v2"), ("pa-", "a"), ("pa-abc", "-abc"),
    ("pa-", "A-"), ("token=", "abc-"), ("A_KEY=", "a"), ("A_KEY=", "1"), ("pass=", "a"),
    ("1", "2"), ("sk_", "0"), ("jina_", "a"), ("sb_secret_", "a_"), ("ABSK", "a"), ("tskey-", "a-"),
]  # fmt: skip


@pytest.mark.no_cover
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("beginning", "piece"), BEGINNINGS)
def test_one_beginning_with_a_run_behind_it(beginning: str, piece: str) -> None:
    """What a pattern tries within a run is bounded."""
    assert_linear(piece, beginning)


TEXTS = st.lists(
    st.sampled_from([*PIECES, *(text for text, _ in MASKED), *SURVIVORS, "[secret]", "@h", "/"])
    | st.text(max_size=8),
    max_size=6,
).flatmap(lambda parts: st.sampled_from([" ", "", "\n"]).map(lambda joint: joint.join(parts)))


@given(TEXTS)
def test_masking_a_text_twice_is_masking_it_once(text: str) -> None:
    """A replacement is never taken for a secret, nor does one uncover another."""
    once = mask(text)
    assert mask(once) == once


def test_the_names_of_other_tests_hold_too() -> None:
    """As the name of what is assigned in a text, each is known with a value that has digits."""
    known_as_keys_alone = (
        "cvv ssn card_number ssh-key apikeys auth access_tokens openai_key azure_openai_key "
        "google_maps_key"
    ).split()
    for key in SECRET_KEYS:
        if key.lower() not in known_as_keys_alone:
            assert "a1b2c3d4e5" not in mask(f'{{"{key}": "a1b2c3d4e5"}}'), key
