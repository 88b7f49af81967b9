// Operations under way.

use crate::sync::AtomicUsize;
use shuttle::{future, thread};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// As much of the vault as counts.
#[derive(Default)]
pub struct Vault {
    under_way: under_way::Count,
}

/// Who waits for the end of all operations does not go before it, and does go.
pub fn idle_means_none() {
    let vault = Arc::new(Vault::default());
    let ended = Arc::new(AtomicUsize::new(0));
    for _ in 0..2 {
        let (vault, ended) = (Arc::clone(&vault), Arc::clone(&ended));
        let first = vault.begin();
        thread::spawn(move || {
            // One begins another before it ends, as a call that is tried again does.
            let second = vault.begin();
            drop(first);
            ended.fetch_add(1, Ordering::SeqCst);
            drop(second);
        });
    }
    let waiters = [0, 1].map(|_| {
        let (vault, ended) = (Arc::clone(&vault), Arc::clone(&ended));
        thread::spawn(move || {
            future::block_on(vault.idle());
            assert_eq!(ended.load(Ordering::SeqCst), 2, "it went while something was under way");
        })
    });
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}
