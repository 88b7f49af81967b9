#!/usr/bin/env python3
"""Cloakroom from Python: tokenize, detokenize, and what a client must keep to (docs/clients/README.md).

    python -m grpc_tools.protoc -I proto --python_out=stubs --grpc_python_out=stubs proto/cloakroom/v1/*.proto
    PYTHONPATH=stubs python docs/clients/python/example.py vault/profiles
"""

import random
import re
import socket
import ssl
import sys
import time
import tomllib
import uuid
from pathlib import Path

import grpc
from cloakroom.v1 import token_service_pb2 as pb
from cloakroom.v1 import token_service_pb2_grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

DEADLINE_SECONDS = 5.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 2.0


class WrongServer(Exception):
    """Somebody answers who is not the vault that the profile names. Nothing was sent."""


class Refused(Exception):
    """The vault, or the way to it, said no: status, reason word, the event that recorded it if there is one. Never a value."""

    def __init__(self, error):
        status, self.reason, self.retry_after, self.event = rpc_status.from_call(error), "", None, None
        for detail in status.details if status else []:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                self.reason, self.event = info.reason, info.metadata.get("sequence")
            elif detail.Unpack(retry):
                self.retry_after = retry.retry_delay.ToTimedelta().total_seconds()
        self.code = error.code()
        super().__init__(f"{self.code.name} {self.reason or error.details()}" + (f" (event {self.event})" if self.event else ""))

    def may_be_made_again(self, has_request_id):
        """The table of docs/clients/README.md. A status without a reason was made on this side: the connection broke."""
        if self.code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_after is not None
        if self.code == grpc.StatusCode.ABORTED:
            return True
        return self.code == grpc.StatusCode.UNAVAILABLE and has_request_id


class Vault:
    def __init__(self, profile):
        settings = tomllib.loads(profile.read_text())
        self.host, _, port = settings["address"].rpartition(":")
        self.port, self.name, self.id = int(port), settings.get("server_name"), settings["server_id"]
        self.files = [profile.parent / settings[key] for key in ("ca", "private_key", "certificate")]
        self.channel = None

    def server_certificate(self):
        """The certificate of whoever answers, once it is known to be the vault's: signed by the authority, for the right
        name, and with the right SPIFFE ID."""
        ca, key, certificate = self.files
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks chain and name
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(ca)
        context.load_cert_chain(certificate, key)
        context.set_alpn_protocols(["h2"])
        with socket.create_connection((self.host, self.port), timeout=DEADLINE_SECONDS) as tcp:
            with context.wrap_socket(tcp, server_hostname=self.name or self.host) as tls:
                names = tls.getpeercert()["subjectAltName"]
                if [name for kind, name in names if kind == "URI"] != [self.id]:
                    raise WrongServer(f"the server's certificate has the names {names}, and {self.id} is wanted")
                return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))

    def connect(self):
        """gRPC for Python cannot look at a server's SPIFFE ID. So it is told to trust one certificate and no other: the
        one that was just looked at. When the vault gets a new one, the connection fails, and this is done again."""
        _, key, certificate = (file.read_bytes() for file in self.files)
        pinned = self.server_certificate().encode()
        options = [("grpc.enable_retries", 0)]  # what is made again, and when, is decided below
        if self.name:
            options.append(("grpc.ssl_target_name_override", self.name))
        credentials = grpc.ssl_channel_credentials(pinned, key, certificate)
        self.channel = grpc.secure_channel(f"{self.host}:{self.port}", credentials, options)

    def call(self, method, request, seconds=DEADLINE_SECONDS):
        """Makes a call until it has its answer, within the deadline, and again only where nothing can be done twice."""
        end, step = time.monotonic() + seconds, FIRST_PAUSE_SECONDS
        has_request_id = bool(getattr(request, "request_id", ""))
        while True:
            error, again, asked = None, True, 0.0
            try:
                if self.channel is None:
                    self.connect()
                stub = token_service_pb2_grpc.TokenServiceStub(self.channel)
                return getattr(stub, method)(request, timeout=max(end - time.monotonic(), 0.001))
            except OSError as caught:  # nobody answers, or TLS failed: nothing was sent
                if isinstance(caught, ssl.SSLCertVerificationError):
                    raise WrongServer(str(caught)) from None
                error = caught
            except grpc.RpcError as caught:
                error = Refused(caught)
                again, asked = error.may_be_made_again(has_request_id), error.retry_after or 0.0
                if error.code == grpc.StatusCode.UNAVAILABLE:
                    self.close()  # the next attempt looks anew at who is there, and reads renewed files
            pause = asked + random.uniform(0, step)  # full jitter, on top of what the vault asks for
            if not again or time.monotonic() + pause >= end:
                raise error from None
            time.sleep(pause)
            step = min(2 * step, LONGEST_PAUSE_SECONDS)

    def close(self):
        if self.channel:
            self.channel.close()
        self.channel = None

    def tokenize(self, scope, values):
        items = [pb.TokenizeItem(value=value) for value in values]
        return self.call("Tokenize", pb.TokenizeRequest(scope=scope, items=items, request_id=str(uuid.uuid4())))

    def detokenize(self, scope, tokens, purpose):
        request = pb.DetokenizeRequest(scope=scope, tokens=tokens, purpose=purpose, request_id=str(uuid.uuid4()))
        return self.call("Detokenize", request)


def main():
    profiles = Path(sys.argv[1])
    gateway, payments = (Vault(profiles / f"{name}.toml") for name in ("gateway", "payments"))
    answer = gateway.tokenize("pan", [b"4111111111111111", b""])
    issued, refused = answer.results
    print(f"tokenized: handle {issued.issued.handle}, event {answer.receipt.sequence}")  # handles may be logged, tokens not
    print(f"refused: {refused.error.message}")
    answer = payments.detokenize("pan", [issued.issued.token], "refund")
    assert answer.results[0].value == b"4111111111111111"
    print(f"detokenized: {len(answer.results[0].value)} bytes, event {answer.receipt.sequence}")
    try:
        gateway.detokenize("pan", [issued.issued.token], "refund")
    except Refused as refusal:
        print(f"the gateway may not: {refusal}")
    gateway.id = re.sub("/vault$", "/other", gateway.id)
    gateway.close()
    try:
        gateway.tokenize("pan", [b"4111111111111111"])
    except WrongServer:
        print("another server was told nothing")


if __name__ == "__main__":
    main()
