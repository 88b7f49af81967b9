// Connections that are closed from outside while they sleep, come and go.

use connections::Connections;
use shuttle::{future, thread};
use std::task::Poll;

mod io {
    use crate::caller::{Caller, SpiffeId};

    /// Whose it is.
    pub struct Connection {
        pub caller: Caller,
    }

    /// One of this caller's.
    pub fn of(caller: u32) -> std::sync::Arc<Connection> {
        std::sync::Arc::new(Connection { caller: Caller { id: SpiffeId(caller) } })
    }
}

/// A connection that was there when all were closed notices it, asleep or not; who waits until all are gone gets to it; one
/// that comes later stays.
pub fn closed_is_noticed() {
    let connections = Connections::new();
    let drivers = [1, 2].map(|number| {
        let registered = connections.register(io::of(number), crate::sync::OwnedSemaphorePermit, 1);
        let registered = registered.expect("each caller has one");
        thread::spawn(move || {
            // Until it is closed, nothing else wakes it.
            let closed = std::future::poll_fn(|context| {
                if registered.is_closed() || !registered.wake_on_close(context) {
                    return Poll::Ready(());
                }
                Poll::Pending
            });
            future::block_on(closed);
        })
    });
    let waiter = {
        let connections = connections.clone();
        thread::spawn(move || future::block_on(connections.drained()))
    };
    assert_eq!(connections.close_where(|connection| connection.caller.id.0 == 1), 1);
    assert!((1..=2).contains(&connections.close_all()));
    drivers.into_iter().for_each(|driver| driver.join().unwrap());
    waiter.join().unwrap();
    assert_eq!(connections.open(), 0);
    let late = connections.register(io::of(2), crate::sync::OwnedSemaphorePermit, 1);
    let late = late.expect("the caller's place is free again");
    assert!(connections.register(io::of(2), crate::sync::OwnedSemaphorePermit, 1).is_none(), "it has one");
    assert!(!late.is_closed());
    drop(late);
    assert_eq!(connections.close_all(), 0);
}
