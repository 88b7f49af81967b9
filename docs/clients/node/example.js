#!/usr/bin/env node
// Cloakroom from Node: tokenize, detokenize, and what a client must keep to (docs/clients/README.md).
//
//     npm ci --prefix docs/clients/node
//     node docs/clients/node/example.js vault/profiles
'use strict';

const { randomUUID, X509Certificate } = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const tls = require('node:tls');

const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const protobuf = require('protobufjs');

const DEADLINE_MS = 5000;
const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 2000;

const PROTOS = path.join(__dirname, '../../../proto');
const loaded = protoLoader.loadSync('cloakroom/v1/token_service.proto', {
  includeDirs: [PROTOS], keepCase: true, longs: String, enums: String, oneofs: true,
});
const { TokenService } = grpc.loadPackageDefinition(loaded).cloakroom.v1;

// google.rpc, as far as an error is told with it.
const rpc = protobuf.parse(`syntax = "proto3"; package google.rpc;
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message RetryInfo { Duration retry_delay = 1; }`, { keepCase: true }).root;
const decode = (name, bytes) => rpc.lookupType(`google.rpc.${name}`).decode(bytes);

/** The vault, or the way to it, said no: status, reason word, the event that recorded it if there is one. Never a value. */
class Refused extends Error {
  constructor(error) {
    const [bytes] = error.metadata?.get('grpc-status-details-bin') ?? [];
    let reason = '', event, retryAfterMs;
    for (const detail of bytes ? decode('Status', bytes).details : []) {
      if (detail.type_url.endsWith('/google.rpc.ErrorInfo')) {
        const info = decode('ErrorInfo', detail.value);
        [reason, event] = [info.reason, info.metadata.sequence];
      } else if (detail.type_url.endsWith('/google.rpc.RetryInfo')) {
        const delay = decode('RetryInfo', detail.value).retry_delay;
        retryAfterMs = Number(delay.seconds) * 1000 + delay.nanos / 1e6;
      }
    }
    super(`${grpc.status[error.code]} ${reason || error.details}${event ? ` (event ${event})` : ''}`);
    Object.assign(this, { code: error.code, reason, event, retryAfterMs });
  }

  /** The table of docs/clients/README.md. A status without a reason was made on this side: the connection broke. */
  mayBeMadeAgain(hasRequestId) {
    if (this.code === grpc.status.RESOURCE_EXHAUSTED) return this.retryAfterMs !== undefined;
    if (this.code === grpc.status.ABORTED) return true;
    return this.code === grpc.status.UNAVAILABLE && hasRequestId;
  }
}

class Vault {
  constructor(profile) {
    // A profile is TOML; this reads the plain lines that `cloakroom init` writes.
    this.settings = Object.fromEntries(
      [...fs.readFileSync(profile, 'utf8').matchAll(/^(\w+) = "(.*)"$/gm)].map(([, key, value]) => [key, value]));
    this.file = (key) => fs.readFileSync(path.join(path.dirname(profile), this.settings[key]));
  }

  /** Reads the files anew, so that renewed certificates are taken up with the next connection. */
  connect() {
    this.wrongServer = undefined;
    const { address, server_name: name, server_id: id } = this.settings;
    // Chain and name are checked by Node. That is not enough: other workloads have certificates of the same authority.
    const checkServerIdentity = (host, certificate) => {
      const problem = tls.checkServerIdentity(host, certificate);
      if (problem) return problem;
      const names = new X509Certificate(certificate.raw).subjectAltName.split(', ').filter((one) => one.startsWith('URI:'));
      if (names.length === 1 && names[0] === `URI:${id}`) return undefined;
      this.wrongServer = new Error(`the server is ${names.join(' and ') || 'nobody'}, and ${id} is wanted`);
      return this.wrongServer;
    };
    const credentials = grpc.credentials.createSsl(
      this.file('ca'), this.file('private_key'), this.file('certificate'), { checkServerIdentity });
    // What is made again, and when, is decided below.
    const options = { 'grpc.enable_retries': 0, ...(name && { 'grpc.ssl_target_name_override': name }) };
    return new TokenService(address, credentials, options);
  }

  once(method, request, end) {
    this.client ??= this.connect();
    return new Promise((resolve, reject) => {
      this.client[method](request, new grpc.Metadata(), { deadline: end }, (error, answer) =>
        error ? reject(new Refused(error)) : resolve(answer));
    });
  }

  /** Makes a call until it has its answer, within the deadline, and again only where nothing can be done twice. */
  async call(method, request, ms = DEADLINE_MS) {
    const end = Date.now() + ms;
    for (let step = FIRST_PAUSE_MS; ; step = Math.min(2 * step, LONGEST_PAUSE_MS)) {
      try {
        return await this.once(method, request, end);
      } catch (error) {
        // The next attempt looks anew at who is there, and reads renewed files.
        if (error.code === grpc.status.UNAVAILABLE) this.close();
        if (this.wrongServer) throw this.wrongServer; // nothing was sent, and no attempt will change who that is
        if (!(error instanceof Refused)) throw error;
        // Full jitter, on top of what the vault asks for.
        const pause = (error.retryAfterMs ?? 0) + Math.random() * step;
        if (!error.mayBeMadeAgain(Boolean(request.request_id)) || Date.now() + pause >= end) throw error;
        await sleep(pause);
      }
    }
  }

  close() {
    this.client?.close();
    this.client = undefined;
  }

  tokenize(scope, values) {
    const items = values.map((value) => ({ value: Buffer.from(value) }));
    return this.call('Tokenize', { scope, items, request_id: randomUUID() });
  }

  detokenize(scope, tokens, purpose) {
    return this.call('Detokenize', { scope, tokens, purpose, request_id: randomUUID() });
  }
}

async function main() {
  const [gateway, payments] = ['gateway', 'payments'].map((name) => new Vault(path.join(process.argv[2], `${name}.toml`)));
  const stored = await gateway.tokenize('pan', ['4111111111111111', '']);
  const [{ issued }, refused] = stored.results;
  // Handles may be logged, tokens not.
  console.log(`tokenized: handle ${issued.handle}, event ${stored.receipt.sequence}`);
  console.log(`refused: ${refused.error.message}`);
  const found = await payments.detokenize('pan', [issued.token], 'refund');
  if (found.results[0].value.toString() !== '4111111111111111') throw new Error('another value came back');
  console.log(`detokenized: ${found.results[0].value.length} bytes, event ${found.receipt.sequence}`);
  await gateway.detokenize('pan', [issued.token], 'refund').catch((refusal) => console.log(`the gateway may not: ${refusal.message}`));
  gateway.close();
  gateway.settings.server_id = gateway.settings.server_id.replace(/\/vault$/, '/other');
  await gateway.tokenize('pan', ['4111111111111111']).catch(() => console.log('another server was told nothing'));
  gateway.close();
  payments.close();
}

module.exports = { Refused, Vault };
if (require.main === module) {
  main().catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
