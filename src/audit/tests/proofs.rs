//! Proofs, as an auditor gets them, held against a checkpoint by the log's public key and nothing else.

use super::prove::{ConsistencyProof, InclusionProof};
use super::*;
use crate::merkle::note::Checkpoint;
use crate::merkle::{self, leaf_hash};

async fn checkpoint(f: &Fixture) -> Checkpoint {
    let auditor = f.client("auditor");
    let note = auditor.vault.checkpoint(&auditor.call).await.unwrap_or_else(|failure| panic!("{failure:?}"));
    f.site.log_keys().open(&note).unwrap()
}

async fn inclusion(f: &Fixture, sequence: u64, size: u64) -> Result<InclusionProof, Failure> {
    let auditor = f.client("auditor");
    auditor.vault.inclusion_proof(&auditor.call, sequence, size).await
}

async fn consistency(f: &Fixture, from: u64, to: u64) -> Result<ConsistencyProof, Failure> {
    let auditor = f.client("auditor");
    auditor.vault.consistency_proof(&auditor.call, from, to).await
}

#[tokio::test]
async fn every_event_is_proved_to_be_in_every_tree_that_has_it_a_14() {
    let (f, _) = busy_vault().await;
    // More than a tile.
    for number in 0..200_u32 {
        submit(f.vault.ledger(), Submission::new(f.vault.ledger().basis(), plain_event(&number.to_string(), &[])))
            .unwrap()
            .wait()
            .unwrap();
    }
    let old = checkpoint(&f).await;
    let new = checkpoint(&f).await;
    assert!(old.size() > 256 && new.size() > old.size(), "a checkpoint covers the event of its own question");
    let mut proved = 0;
    let events = f.events();
    for tree in [&old, &new] {
        for sequence in 0..tree.size() {
            let proof = inclusion(&f, sequence, tree.size()).await.unwrap();
            assert_eq!((proof.sequence, proof.tree_size), (sequence, tree.size()));
            let leaf = leaf_hash(&proof.event);
            merkle::verify_inclusion(&leaf, sequence, tree.size(), tree.root(), &proof.hashes).unwrap();
            assert_eq!(event::decode(&proof.event).unwrap(), events[usize::try_from(sequence).unwrap()]);
            proved += 1;
        }
    }
    for from in 0..=old.size() {
        let proof = consistency(&f, from, new.size()).await.unwrap();
        let before = consistency(&f, 0, from).await.unwrap();
        assert!(before.hashes.is_empty());
        if from == old.size() {
            let roots = (old.root(), new.root());
            merkle::verify_consistency(from, roots.0, new.size(), roots.1, &proof.hashes).unwrap();
        }
    }
    println!("proofs: {proved} events proved");
    f.check();
}

#[tokio::test]
async fn a_receipt_from_any_call_becomes_a_proof_later_a_14() {
    let f = Fixture::new();
    let done = f.client("gateway").tokenize("pan", vec![item(PAN)]).await.unwrap();
    let sequence = done.receipt.sequence();
    // Younger than any checkpoint: it is vouched for now.
    let proof = inclusion(&f, sequence, 0).await.unwrap();
    assert!(proof.tree_size > sequence);
    assert_eq!(event::decode(&proof.event).unwrap().action(), Action::Tokenize);
    let tree = f.vault.ledger().vouched();
    assert_eq!(tree.size(), proof.tree_size);
    let root = tree.tree().root();
    merkle::verify_inclusion(&leaf_hash(&proof.event), sequence, proof.tree_size, &root, &proof.hashes).unwrap();
    // The same again from a tree of much later, in the same words.
    for _ in 0..20 {
        f.client("gateway").tokenize("pan", vec![item(PAN)]).await.unwrap();
    }
    let later = checkpoint(&f).await;
    assert_eq!(inclusion(&f, sequence, later.size()).await.unwrap().event, proof.event);
    assert_eq!(inclusion(&f, sequence, proof.tree_size).await.unwrap(), proof);
    f.check();
}

#[tokio::test]
async fn what_the_log_does_not_have_is_not_proved_and_the_question_is_recorded() {
    let f = Fixture::new();
    let size = checkpoint(&f).await.size();
    for (sequence, tree) in [(size, size), (0, size + 1_000), (size + 1_000, 0), (u64::MAX, 0), (0, u64::MAX)] {
        let failure = inclusion(&f, sequence, tree).await.unwrap_err();
        assert_eq!(name(&failure), "not in log", "{sequence} in {tree}");
        assert_eq!(words(&f.event(receipt(&failure).unwrap())), "query_audit failed NOT_IN_LOG");
    }
    assert_eq!(name(&consistency(&f, 5, 4).await.unwrap_err()), "from_size SIZES_REVERSED");
    assert_eq!(name(&consistency(&f, 0, u64::MAX).await.unwrap_err()), "not in log");
    assert_eq!(name(&consistency(&f, u64::MAX, 0).await.unwrap_err()), "not in log");
    let newest = consistency(&f, 1, 0).await.unwrap();
    assert!(newest.to_size >= size);
    let detail = |place: usize| f.events()[f.events().len() - place].detail.clone();
    assert_eq!(detail(1), "consistency proof from 1 events to the newest tree");
    f.check();
}

#[tokio::test]
async fn who_may_not_ask_the_log_gets_no_proof_either_z_01() {
    let f = Fixture::new();
    for name in ["gateway", "payments", "operator", "stranger"] {
        let client = f.client(name);
        let call = &client.call;
        assert!(matches!(client.vault.checkpoint(call).await, Err(Failure::Denied(Some(_)))), "{name}");
        assert!(matches!(client.vault.inclusion_proof(call, 0, 0).await, Err(Failure::Denied(Some(_)))));
        assert!(matches!(client.vault.consistency_proof(call, 0, 0).await, Err(Failure::Denied(Some(_)))));
    }
    f.check();
}

#[tokio::test]
async fn a_tile_that_is_gone_is_no_proof_and_no_wrong_one() {
    let f = Fixture::new();
    for number in 0..300_u32 {
        submit(f.vault.ledger(), Submission::new(f.vault.ledger().basis(), plain_event(&number.to_string(), &[])))
            .unwrap()
            .wait()
            .unwrap();
    }
    let size = checkpoint(&f).await.size();
    let mut batch = Batch::default();
    batch.delete(Table::Tree, b"tile/0/000");
    f.site.store.reopen().commit(&batch).unwrap();
    assert!(matches!(inclusion(&f, 3, size).await, Err(Failure::Unavailable)));
}
