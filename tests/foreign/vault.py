"""A vault as an operator meets it: made with `init`, configured, started, stopped; and callers with certificates."""

import contextlib
import datetime
import hashlib
import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAIN = "dev.cloakroom.internal"
ROOT = Path(__file__).resolve().parents[2]
# A hang must end somewhere: far more than anything here takes.
PATIENCE = 120


def generate_stubs(directory):
    """The client's code, made from `proto/` alone. google/rpc comes from its publisher."""
    from grpc_tools import protoc

    protos = sorted((ROOT / "proto" / "cloakroom" / "v1").glob("*.proto"))
    include = Path(protoc.__file__).parent / "_proto"
    common = [f"-I{ROOT / 'proto'}", f"-I{include}", f"--python_out={directory}", f"--grpc_python_out={directory}"]
    if protoc.main(["protoc", *common, *map(str, protos)]) != 0:
        raise RuntimeError("the stubs could not be made from proto/")
    sys.path.insert(0, str(directory))


# === certificates ===


def left_out(why):
    """Says what was not run; counted by whoever gives a file for it, as the tests in Rust do (`deploy/test`)."""
    print(f"LEFT OUT: {why}", flush=True)
    if name := os.environ.get("NOT_RUN"):
        with open(name, "a", encoding="utf-8") as file:
            file.write(f"tests/foreign: {' '.join(why.split())}\n")


@dataclass
class Identity:
    """A certificate chain and its key, PEM."""

    chain: bytes
    key: bytes

    @property
    def certificate(self):
        return x509.load_pem_x509_certificate(self.chain)

    @property
    def fingerprint(self):
        return hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).digest()

    @property
    def id(self):
        names = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.UniformResourceIdentifier)[0]

    def write(self, directory, name):
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        for path, content in zip(paths, (self.chain, self.key), strict=True):
            path.write_bytes(content)
        return paths


def pem(key):
    form, cipher = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, form, cipher)


class Authority:
    """Signs client certificates: right ones, and wrong ones on purpose."""

    def __init__(self, certificate=None, key=None):
        if certificate is None:
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "another authority")])
            builder = self.builder(name, name, key, datetime.timedelta(days=1))
            constraint = x509.BasicConstraints(ca=True, path_length=0)
            certificate = builder.add_extension(constraint, critical=True).sign(key, hashes.SHA256())
        self.certificate, self.key = certificate, key

    @classmethod
    def read(cls, directory):
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        return cls(certificate, serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None))

    @staticmethod
    def builder(subject, issuer, key, lifetime, starts=-datetime.timedelta(minutes=5)):
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + starts)
            .not_valid_after(now + lifetime)
        )

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def sign_server(self, address):
        """A server at an IP address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a foreign server")])
        builder = self.builder(subject, self.certificate.subject, key, datetime.timedelta(hours=1))
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key())
        builder = builder.add_extension(authority, critical=False)
        return Identity(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), pem(key))

    def sign(
        self,
        *uris,
        lifetime=datetime.timedelta(hours=1),
        starts=-datetime.timedelta(minutes=5),
        usage=("digital_signature",),
        purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,),
        ca=False,
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a foreign client")])
        builder = self.builder(subject, self.certificate.subject, key, lifetime, starts)
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        usages = "digital_signature content_commitment key_encipherment data_encipherment key_agreement key_cert_sign"
        usages = dict.fromkeys([*usages.split(), "crl_sign", "encipher_only", "decipher_only"], False)
        usages.update(dict.fromkeys(usage, True))
        builder = builder.add_extension(x509.KeyUsage(**usages), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.certificate.public_key()), critical=False
        )
        if purposes:
            builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if uris:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Identity(certificate.public_bytes(serialization.Encoding.PEM), pem(key))


# === the vault ===

TESTER = """// A role that may do everything with two scopes of its own, so that all answers can be had from outside.
@id("tester-uses-tokens")
permit (
  principal in Cloakroom::Role::"tester",
  action in [
    Cloakroom::Action::"tokenize",
    Cloakroom::Action::"detokenize",
    Cloakroom::Action::"inspect",
    Cloakroom::Action::"renew",
    Cloakroom::Action::"revoke"
  ],
  resource in Cloakroom::Scope::"foreign"
);
"""

SCOPES = """
[scopes."foreign/extra"]
format = "opaque"
prefix = "extra"
ttl = "60s"
max_ttl = "1h"
max_value_bytes = 1048576
mask = { keep_last = 4 }

[scopes."foreign/quiet"]
format = "opaque"
prefix = "quiet"
purpose_required = false

[scopes."foreign/uuid"]
format = "uuid"
"""


@dataclass
class Vault:
    """A vault's directory."""

    binary: Path
    path: Path
    counters: dict = field(default_factory=dict)

    @classmethod
    def init(cls, binary, path):
        vault = cls(binary, path)
        vault.command("init", str(path))
        vault.configure()
        return vault

    def command(self, *arguments, **settings):
        return subprocess.run(
            [str(self.binary), *arguments],
            check=True,
            capture_output=True,
            timeout=PATIENCE,
            env=environment(),
            **settings,
        )

    def configure(self):
        """Every role gets as many members as wanted: `…/gateway/1`, `…/gateway/2` …; and `tester` is added."""
        file = self.path / "cloakroom.toml"
        text = file.read_text(encoding="utf-8")
        for role in ("gateway", "payments", "auditor", "operator"):
            member = f'"spiffe://{DOMAIN}/{role}"'
            line = f"{role} = [{member}]"
            if text.count(line) != 1:
                raise RuntimeError(f"the sample configuration has no line `{line}`")
            text = text.replace(line, f'{role} = [{member}, "spiffe://{DOMAIN}/{role}/*"]')
        text = text.replace("[roles]", f'[roles]\ntester = ["spiffe://{DOMAIN}/tester/*"] #', 1)
        file.write_text(text + SCOPES, encoding="utf-8")
        (self.path / "policies" / "tester.cedar").write_text(TESTER, encoding="utf-8")

    @property
    def authority(self):
        return Authority.read(self.path / "pki")

    def identity(self, name):
        pki = self.path / "pki"
        return Identity((pki / f"{name}.pem").read_bytes(), (pki / f"{name}.key").read_bytes())

    def new_identity(self, role):
        """A caller that nobody has seen before, so that its first refusals have events of their own."""
        count = self.counters[role] = self.counters.get(role, 0) + 1
        return self.authority.sign(f"spiffe://{DOMAIN}/{role}/{count}")

    def copy(self, path):
        shutil.copytree(self.path, path)
        return Vault(self.binary, path, self.counters)

    @contextlib.contextmanager
    def running(self, settings=None, wrapper=()):
        process = Process(self, settings or {}, wrapper)
        try:
            yield process
        finally:
            process.end()

    def refuses_to_start(self):
        """What it says, if it ends by itself with an error."""
        process = spawn(self, {}, (), subprocess.PIPE)
        if process.stdout.readline():
            process.kill()
        _, said = process.communicate(timeout=PATIENCE)
        return said.decode() if process.returncode > 0 else None


def environment(settings=None):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLOAKROOM_")}
    return clean | (settings or {})


def spawn(vault, settings, wrapper, stderr):
    listen = {"CLOAKROOM_SERVER__LISTEN": "127.0.0.1:0", "CLOAKROOM_OPERATIONS__LISTEN": "127.0.0.1:0"}
    command = [*wrapper, str(vault.binary), "serve", "--config", str(vault.path / "cloakroom.toml")]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment(listen | settings))


class Process:
    """A vault that serves."""

    def __init__(self, vault, settings, wrapper):
        self.vault = vault
        log = vault.path / "serve.log"
        with open(log, "ab") as stderr:
            self.process = spawn(vault, settings, wrapper, stderr)
        line = self.process.stdout.readline().decode()
        if not line.startswith("listening on "):
            self.process.wait(PATIENCE)
            raise RuntimeError(f"the vault did not start:\n{log.read_text(encoding='utf-8')}")
        self.address = line.removeprefix("listening on ").strip()
        self.port = int(self.address.rpartition(":")[2])
        said = re.findall(r"probes and metrics are answered.*?(127\.0\.0\.1:\d+)", log.read_text(encoding="utf-8"))
        self.operations = said[-1]
        self.ca = (vault.path / "pki" / "ca.pem").read_bytes()

    def end(self):
        """Ends it as an operator would; exit status, or `None` if it had to be killed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return None
        return self.process.returncode

    def channel(self, identity, **settings):
        """A channel whose calls carry `identity`; `None`: no certificate."""
        key, chain = (identity.key, identity.chain) if identity else (None, None)
        credentials = grpc.ssl_channel_credentials(self.ca, key, chain)
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", 8 << 20),
            ("grpc.initial_reconnect_backoff_ms", 100),
        ]
        return grpc.secure_channel(self.address, credentials, options, **settings)
