//! What `init` writes, word for word.

pub(super) const TRUST_DOMAIN: &str = "dev.cloakroom.internal";
pub(super) const SERVER_ID: &str = "spiffe://dev.cloakroom.internal/vault";

/// The clients, each with a certificate and a profile.
pub(super) const CLIENTS: [&str; 4] = ["gateway", "payments", "auditor", "operator"];

/// The profile of a client.
pub(super) fn profile(name: &str) -> String {
    format!(
        "# How to reach the vault as spiffe://{TRUST_DOMAIN}/{name}. Relative paths start at this file's folder.\n\
         address = \"127.0.0.1:7443\"\n\
         ca = \"../pki/ca.pem\"\n\
         certificate = \"../pki/{name}.pem\"\n\
         private_key = \"../pki/{name}.key\"\n\
         # The vault must prove to be this one.\n\
         server_id = \"{SERVER_ID}\"\n"
    )
}

pub(super) const CONFIGURATION: &str = r#"# Cloakroom's configuration, as `cloakroom init` writes it for development.
# Relative paths start at this file's folder; durations are written like "90s" or "30d".
# Any setting of a plain table can be overridden by the environment: CLOAKROOM_SERVER__LISTEN=127.0.0.1:0
# An unknown key or variable is an error.

[server]
listen = "127.0.0.1:7443"
certificate = "pki/server.pem"
private_key = "pki/server.key"
# node = "vault"                # how this process is called in events
# workers = 0                   # network threads; 0: one for each core
# max_connections = 1024
# max_connections_per_caller = 0  # 0: half of them
# max_concurrent_streams = 256  # calls in flight on one connection
# max_bytes_in_flight = "256MiB"  # messages, records and answers of all calls together
# handshake_timeout = "5s"
# keepalive_interval = "30s"
# keepalive_timeout = "10s"
# stall_timeout = "1m"          # for a client that does not take a reply, or send its message
# max_connection_age = "1h"     # then a client connects anew, with a fresh certificate; "0s": never
# drain_timeout = "10s"         # for calls in flight at a stop

[operations]                    # /livez /readyz /metrics, no data, no client certificate
listen = "127.0.0.1:9443"

[[trust_domains]]               # one for each; its bundle vouches for no other domain
name = "dev.cloakroom.internal"
bundle = "pki/ca.pem"
crls = []                       # empty: no revocation lists, and the start says so

[root_key]                      # wraps all other keys; keep a copy apart from the data
provider = "file"
path = "root.key"

[storage]
engine = "rocksdb"
path = "data"
# cache_bytes = "256MiB"
# min_free_bytes = "128MiB"      # with less room than this, no call is answered

[audit]
checkpoints = "checkpoints"     # signed checkpoints, kept outside the database; put it on another disk in production
# signing_key = "log.key"

# [ledger]                      # how much may wait for the one writer
# max_queued_calls = 8192
# max_queued_records = 200000
# max_queued_bytes = "64MiB"
# stall_after = "2s"            # a commit that takes longer means that the disk stands still

# [purge]                       # how what has expired is deleted
# rows_per_second = 5000
# grace = "24h"                 # kept so long after its expiry
# interval = "1m"

[policies]
directory = "policies"          # every *.cedar in it

[roles]                         # policies name these; * stands for exactly one path segment
gateway = ["spiffe://dev.cloakroom.internal/gateway"]
payments = ["spiffe://dev.cloakroom.internal/payments"]
auditor = ["spiffe://dev.cloakroom.internal/auditor"]
operator = ["spiffe://dev.cloakroom.internal/operator"]

[scopes.pan]                    # card numbers
format = "opaque"               # or "uuid", without a prefix
prefix = "pan"
ttl = "30d"
max_ttl = "400d"
max_value_bytes = 65536
mask = { keep_first = 6, keep_last = 4 }   # hides at least a third and four characters, or all
purpose_required = true

[scopes.ssn]                    # social security numbers
format = "opaque"
prefix = "ssn"
ttl = "30d"
max_ttl = "400d"
max_value_bytes = 65536
mask = { keep_last = 4 }
purpose_required = true

[scopes.email]                  # e-mail addresses
format = "opaque"
prefix = "email"
ttl = "30d"
max_ttl = "400d"
max_value_bytes = 65536
mask = { keep_first = 2 }
purpose_required = true
"#;
