//! `audit prove`: one event, so that whoever has the log's public key can verify it without the log.

use std::io::Write;

use anyhow::{Context, anyhow};

use crate::cli::{Connection, Exit, Usage};
use crate::client::Client;
use crate::merkle::note::{Checkpoint, Note};
use crate::merkle::{Hash, leaf_hash, verify_inclusion};
use crate::verify::proof::Proof;

/// Print one event with the proof that it is in the log.
///
/// The sequence stands in the receipt of every call. What is printed is a C2SP tlog-proof: the event, the path to the root
/// of the newest checkpoint, and that checkpoint. `audit verify --proof` checks it offline. It holds for good.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    connection: Connection,
    /// Which event.
    #[arg(long, value_name = "N")]
    sequence: u64,
}

pub(super) fn run(options: &Options, output: &mut impl Write) -> anyhow::Result<Exit> {
    let proof = options.connection.run(async |client| prove(&client, options.sequence).await)?;
    output.write_all(proof.to_string().as_bytes()).context("cannot write the output")?;
    Ok(Exit::Done)
}

async fn prove(client: &Client, sequence: u64) -> anyhow::Result<Proof> {
    let note = client.checkpoint().await?;
    let checkpoint = checkpoint(&note)?;
    let size = checkpoint.size();
    if sequence >= size {
        return Err(Usage(format!(
            "event {sequence} is not in the log yet: its newest checkpoint is of {size} entries"
        ))
        .into());
    }
    let (hashes, leaf) = inclusion(client, sequence, size).await?;
    if leaf.is_empty() {
        return Err(Usage(format!(
            "the body of event {sequence} was dropped because of its age: the vault has its hash only. A copy of the log from before \
             has it"
        ))
        .into());
    }
    verify_inclusion(&leaf_hash(&leaf), sequence, size, checkpoint.root(), &hashes)
        .map_err(|problem| anyhow!("the vault's proof of event {sequence} does not hold: {problem}"))?;
    Ok(Proof { sequence, leaf, hashes, note })
}

/// What the vault says that its newest checkpoint is. Its signature is for whoever verifies.
pub(super) fn checkpoint(note: &str) -> anyhow::Result<Checkpoint> {
    let checkpoint = Note::parse(note).and_then(|note| Checkpoint::parse(note.text()));
    checkpoint.context("the vault's answer is not a checkpoint")
}

/// The path of an entry in the tree of `size`, and its bytes.
pub(super) async fn inclusion(client: &Client, sequence: u64, size: u64) -> anyhow::Result<(Vec<Hash>, Vec<u8>)> {
    let proof = client.inclusion_proof(sequence, size).await?;
    Ok((hashes(&proof.hashes)?, proof.event))
}

pub(super) fn hashes(bytes: &[Vec<u8>]) -> anyhow::Result<Vec<Hash>> {
    let hashes = bytes.iter().map(|bytes| Hash::try_from(bytes.as_slice()));
    hashes.collect::<Result<_, _>>().context("the vault's proof is not made of hashes")
}
