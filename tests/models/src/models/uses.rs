// Tokens with limited uses. Inside the module: how small its map may get is nobody else's business.

use crate::sync::AtomicUsize;
use shuttle::{future, thread};
use std::sync::atomic::Ordering;

/// Takes turns at `handles`, so many times, and says how often somebody else was found there.
fn user(
    queues: &Arc<Queues>,
    inside: &Arc<[AtomicUsize; 3]>,
    handles: [u32; 2],
    times: usize,
) -> thread::JoinHandle<()> {
    let (queues, inside) = (Arc::clone(queues), Arc::clone(inside));
    thread::spawn(move || {
        for _ in 0..times {
            let turn = future::block_on(queues.turn(handles.map(Handle).to_vec()));
            let others = handles.map(|handle| inside[handle as usize].fetch_add(1, Ordering::SeqCst));
            // What is in both places counts itself.
            let own = usize::from(handles[0] == handles[1]);
            assert_eq!(others, [0, own], "two at one token");
            thread::yield_now();
            handles.iter().for_each(|handle| {
                inside[*handle as usize].fetch_sub(1, Ordering::SeqCst);
            });
            drop(turn);
        }
    })
}

/// One caller at a time is at each token, also while the map is swept.
pub fn one_at_a_time() {
    let queues = Arc::new(Queues::swept_at_least(1));
    let inside = Arc::new([0, 1, 2].map(|_| AtomicUsize::new(0)));
    let users = [[0, 0], [0, 0], [1, 2]].map(|handles| user(&queues, &inside, handles, 2));
    users.into_iter().for_each(|user| user.join().unwrap());
}

/// Callers at tokens of each other, named in any order, all get their turn.
pub fn nobody_waits_forever() {
    let queues = Arc::new(Queues::swept_at_least(2));
    let inside = Arc::new([0, 1, 2].map(|_| AtomicUsize::new(0)));
    let users = [[0, 1], [1, 2], [2, 0]].map(|handles| user(&queues, &inside, handles, 1));
    users.into_iter().for_each(|user| user.join().unwrap());
}
