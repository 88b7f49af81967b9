// Connections that are closed from outside while they sleep, come and go.

use connections::Connections;
use shuttle::{future, thread};
use std::sync::Arc;
use std::task::Poll;

mod io {
    /// Which one it is.
    pub struct Connection(pub u32);
}

/// A connection that was there when all were closed notices it, asleep or not; who waits until all are gone gets to it; one
/// that comes later stays.
pub fn closed_is_noticed() {
    let connections = Connections::new();
    let drivers = [1, 2].map(|number| {
        let registered = connections.register(Arc::new(io::Connection(number)), crate::sync::OwnedSemaphorePermit);
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
    assert_eq!(connections.close_where(|connection| connection.0 == 1), 1);
    assert!((1..=2).contains(&connections.close_all()));
    drivers.into_iter().for_each(|driver| driver.join().unwrap());
    waiter.join().unwrap();
    assert_eq!(connections.open(), 0);
    let late = connections.register(Arc::new(io::Connection(3)), crate::sync::OwnedSemaphorePermit);
    assert!(!late.is_closed());
    drop(late);
    assert_eq!(connections.close_all(), 0);
}
