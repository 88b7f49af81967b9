//! What is said to a client that is known and can't stay: HTTP/2's GOAWAY, so that its library knows that it was heard, was
//! refused, and may come again.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

/// An empty SETTINGS frame, which is what a server must begin with, and GOAWAY with ENHANCE_YOUR_CALM, for all streams.
const GOODBYE: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x1c\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0btoo many connections";

/// How long a client has to hear it and go. A socket that is closed with unread bytes in it is reset, and what was said last
/// is lost with it.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// A client that knows nothing yet sends its first frames. More is not read.
const READ_AT_MOST: u64 = 64 * 1024;

/// Says so and closes, before `expires`.
pub(super) async fn say(mut stream: TlsStream<TcpStream>, expires: Instant) {
    let until = expires.min(Instant::now() + HEARD_WITHIN);
    let said = async {
        stream.write_all(GOODBYE).await?;
        stream.shutdown().await?;
        tokio::io::copy(&mut (&mut stream).take(READ_AT_MOST), &mut tokio::io::sink()).await
    };
    // Whoever does not listen is not told; it is closed either way.
    let _ = tokio::time::timeout_at(until, said).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lengths_are_those_of_the_frames() {
        let length = |frame: &[u8]| u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        let (settings, goaway) = GOODBYE.split_at(9);
        assert_eq!((length(settings), settings[3]), (0, 4));
        assert_eq!((length(goaway), goaway[3]), (goaway.len() - 9, 7));
        assert_eq!(goaway[13..17], 11_u32.to_be_bytes());
    }
}
