"""What the clients meet: an Entra tenant and an Okta org, their applications' keys, and the certificates of the hosts."""

import base64
import datetime
import ipaddress
import json
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOSTS = ["login.microsoftonline.com", "graph.microsoft.com", "*.okta.com"]
TENANT = "8d7b1c52-6c39-4f5e-9d35-0c2c0f6b9a11"
APP = "11111111-2222-4333-8444-555555555555"
PUBLIC_APP = "22222222-3333-4444-8555-666666666666"
SECRET = "Zx8Q~secret+value/with=signs"
OKTA_APP = "0oaservice0000000000"
OKTA_PLAIN_APP = "0oaplain000000000000"
KEY_ID = "parapet-1"
PERMISSIONS = [
    "User.Read.All",
    "User.RevokeSessions.All",
    "User.EnableDisableAccount.All",
    "IdentityRiskyUser.ReadWrite.All",
    "IdentityRiskyUser.Read.All",
    "Organization.Read.All",
    "Domain.Read.All",
    "GroupMember.Read.All",
]
# Two pages of 999 and six of a delta, three pages of 200: the Graph SDK for Python takes 15 ms for each user it reads.
GENERATED_ENTRA = 1050
GENERATED_OKTA = 450
# What the sign-ins of every client meet, by local part.
NAMED = {
    "ann": {"password": "right-horse-1"},
    "mia": {"password": "right-horse-2", "second_factor": "required"},
    "leo": {"password": "right-horse-3"},
    "sam": {"password": "right-horse-4"},
}
OKTA_SCOPES = [
    "okta.users.read",
    "okta.users.manage",
    "okta.groups.read",
    "okta.logs.read",
    "okta.policies.read",
    "okta.userRisk.read",
    "okta.userRisk.manage",
]


def prepare(folder: pathlib.Path) -> dict:
    """Writes keys and certificates below `folder`; returns what the clients are told and the directories to create."""
    authority = _authority()
    _host(folder, *authority)
    app_key = rsa.generate_private_key(65537, 2048)
    app_cert = _certificate(_name("Parapet"), _name("Parapet"), app_key.public_key(), app_key)
    okta_key = rsa.generate_private_key(65537, 2048)
    _write(folder / "app.pem", _pem(app_key) + app_cert.public_bytes(serialization.Encoding.PEM))
    _write(folder / "okta.pem", _pem(okta_key))
    clients = {
        "tenant": TENANT,
        "app": APP,
        "public_app": PUBLIC_APP,
        "secret": SECRET,
        "certificate": str(folder / "app.pem"),
        "thumbprint": app_cert.fingerprint(hashes.SHA256()).hex(),
        "entra_users": GENERATED_ENTRA + len(NAMED),
        "group": "99999999-0000-4000-8000-000000000001",
        "group_members": GENERATED_ENTRA // 10 + 1,
        "okta": "https://acme.okta.com",
        "okta_app": OKTA_APP,
        "okta_plain_app": OKTA_PLAIN_APP,
        "okta_key": str(folder / "okta.pem"),
        "okta_key_id": KEY_ID,
        "okta_scopes": OKTA_SCOPES,
        "okta_users": GENERATED_OKTA + len(NAMED),
        "okta_group_members": GENERATED_OKTA // 10,
        "passwords": {name: account["password"] for name, account in NAMED.items()},
    }
    certificate = app_cert.public_bytes(serialization.Encoding.PEM).decode()
    directories = [_tenant(certificate), _org(_jwk(okta_key.public_key()))]
    (folder / "stage.json").write_text(json.dumps(clients))
    return directories


def _tenant(certificate: str) -> dict:
    accounts = [{"login": f"{name}@contoso.example", **account} for name, account in NAMED.items()]
    accounts[0]["id"] = "aaaaaaaa-0000-4000-8000-000000000001"
    return {
        "name": "Contoso",
        "provider": {
            "entra_id": {
                "tenant_id": TENANT,
                "domains": [{"name": "contoso.example"}, {"name": "fed.contoso.example", "authority": "federated"}],
                "apps": [
                    {
                        "client_id": APP,
                        "name": "Parapet",
                        "secrets": [{"value": SECRET}],
                        "certificates": [certificate],
                        "permissions": PERMISSIONS,
                    },
                    {"client_id": PUBLIC_APP, "name": "Password checks", "public": True},
                ],
                "licences": ["P2"],
                "risk_throttling": False,
            }
        },
        "generated": {"seed": 7, "count": GENERATED_ENTRA},
        "accounts": accounts,
        "groups": [
            {
                "id": "99999999-0000-4000-8000-000000000001",
                "name": "Pilot",
                "members": ["aaaaaaaa-0000-4000-8000-000000000001"],
                "every": 10,
            }
        ],
    }


def _org(jwk: dict) -> dict:
    app = {
        "jwks": {"keys": [jwk]},
        "scopes": OKTA_SCOPES,
        "roles": ["SUPER_ADMIN"],
    }
    return {
        "name": "Acme",
        "provider": {
            "okta": {
                "org_id": "00oacme0000000000000",
                "subdomain": "acme",
                "mail_domain": "acme.example",
                "show_lockout_failures": True,
                "apps": [
                    {"client_id": OKTA_APP, "dpop": "nonce", **app},
                    {"client_id": OKTA_PLAIN_APP, "dpop": "off", **app},
                ],
            }
        },
        # Without deprovisioned users, whom a plain list does not show, the number of users is known.
        "generated": {"seed": 7, "count": GENERATED_OKTA, "mix": {"inactive": 0}},
        "accounts": [{"login": f"{name}@acme.example", **account} for name, account in NAMED.items()],
        "groups": [{"id": "00gpilot000000000000", "name": "Pilot", "every": 10}],
    }


def _authority():
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Parapet client tests")
    return key, _certificate(name, name, key.public_key(), key, authority=True)


def _host(folder: pathlib.Path, key, certificate) -> None:
    host_key = ec.generate_private_key(ec.SECP256R1())
    host = _certificate(_name("simulator"), certificate.subject, host_key.public_key(), key, names=HOSTS)
    _write(folder / "ca.pem", certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder / "host.pem", host.public_bytes(serialization.Encoding.PEM))
    _write(folder / "host.key", _pem(host_key))


def _certificate(subject, issuer, public_key, signing_key, authority=False, names=()):
    now = datetime.datetime.now(datetime.timezone.utc)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )
    if names:
        alternatives = [x509.DNSName(name) for name in names]
        alternatives.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        built = built.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        built = built.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        key_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
        built = built.add_extension(key_id, critical=False)
    return built.sign(signing_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _jwk(key: rsa.RSAPublicKey) -> dict:
    numbers = key.public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": KEY_ID,
        "n": _base64url(numbers.n),
        "e": _base64url(numbers.e),
    }


def _base64url(number: int) -> str:
    octets = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def _write(path: pathlib.Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
