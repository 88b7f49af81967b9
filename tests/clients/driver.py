"""The client of docs/clients/python, one call for each line that comes in: `tokenize VALUE` prints the token's handle or why
there is none; `pin FILE` has the next connection trust this certificate instead of the one that was looked at."""

import sys
from pathlib import Path

from cloakroom.v1 import token_service_pb2 as pb
from example import Refused, Vault, WrongServer

# It waits for a vault that is started again, however long that takes.
DEADLINE_SECONDS = 120

vault = Vault(Path(sys.argv[1]))
for line in sys.stdin:
    word, _, rest = line.strip().partition(" ")
    if word == "pin":
        vault.close()
        vault.server_certificate = lambda file=Path(rest): file.read_text()
        print("pinned", flush=True)
        continue
    if word == "unpin":
        vault.close()
        del vault.server_certificate
        print("unpinned", flush=True)
        continue
    # The same id each time a value comes: whoever calls again gets the same token.
    request_id = f"8f14e45f-ceea-467f-a9d5-{int(rest):012d}"
    request = pb.TokenizeRequest(scope="pan", items=[pb.TokenizeItem(value=rest.encode())], request_id=request_id)
    try:
        seconds = 2 if word == "briefly" else DEADLINE_SECONDS
        print(vault.call("Tokenize", request, seconds).results[0].issued.handle, flush=True)
    except WrongServer:
        print("WrongServer", flush=True)
    except (Refused, OSError) as error:
        print(error, flush=True)
