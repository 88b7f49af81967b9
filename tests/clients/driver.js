// The client of docs/clients/node, one call for each line that comes in: `tokenize VALUE` prints the token's handle or why there
// is none.
'use strict';

const readline = require('node:readline');

const { Vault } = require('example.js');

// It waits for a vault that is started again, however long that takes.
const DEADLINE_MS = 120_000;

async function main() {
  const vault = new Vault(process.argv[2]);
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [, value] = line.split(' ');
    // The same id each time a value comes: whoever calls again gets the same token.
    const request_id = `8f14e45f-ceea-467f-a9d5-${value.padStart(12, '0')}`;
    try {
      const answer = await vault.call('Tokenize', { scope: 'pan', items: [{ value: Buffer.from(value) }], request_id }, DEADLINE_MS);
      console.log(answer.results[0].issued.handle);
    } catch (error) {
      console.log(error === vault.wrongServer ? 'WrongServer' : error.message);
    }
  }
  vault.close();
}

main();
