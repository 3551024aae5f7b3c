//! The bytes of an answer, in pieces that go to the client, and out of memory, one after the other.

use crate::error::{Code, Problem};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use millpond_core::limits;
use millpond_core::saturated;
use millpond_engine::memory::Memory;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Size of a piece; one record may exceed it.
const PIECE_BYTES: usize = 128 * limits::KIB;
/// Room for the record that makes a piece full.
const PIECE_ROOM_BYTES: usize = PIECE_BYTES + PIECE_BYTES / 8;

/// An answer while it is written. Buffers are never enlarged beyond a piece, so that what an answer takes is
/// known.
#[derive(Debug, Default)]
pub struct Pieces {
    done: VecDeque<Vec<u8>>,
    /// Capacity of the pieces that are done.
    done_bytes: usize,
    /// The piece that is being written.
    pub out: Vec<u8>,
}

impl Pieces {
    /// `bytes`: the expected size of the answer.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        Self { out: Vec::with_capacity(bytes.min(PIECE_ROOM_BYTES)), ..Self::default() }
    }

    /// Begins a new piece if the current one is full. Returns whether it was.
    pub fn cut(&mut self) -> bool {
        let is_full = self.out.len() >= PIECE_BYTES;
        if is_full {
            let next = Vec::with_capacity(PIECE_ROOM_BYTES);
            self.end_piece(next);
        }
        is_full
    }

    fn end_piece(&mut self, next: Vec<u8>) {
        let mut piece = std::mem::replace(&mut self.out, next);
        if piece.capacity() > piece.len() + PIECE_BYTES / 2 {
            piece.shrink_to_fit();
        }
        self.done_bytes += piece.capacity();
        self.done.push_back(piece);
    }

    /// Memory that the answer takes so far.
    #[must_use]
    pub fn allocated_bytes(&self) -> usize {
        self.done_bytes + self.out.capacity()
    }

    /// The body, which holds `memory` until the client has taken it; `throttled` if it takes more memory than
    /// there is. Without a memory, the answer is not accounted for.
    pub fn finish(mut self, memory: Option<Memory>) -> Result<AnswerBody, Problem> {
        self.end_piece(Vec::new());
        let Some(mut memory) = memory else {
            let pieces: VecDeque<Bytes> = self.done.into_iter().map(Bytes::from).collect();
            return Ok(AnswerBody::new(pieces));
        };
        if !memory.fit(self.done_bytes) {
            return Err(no_memory());
        }
        let held = |bytes: Vec<u8>| {
            let memory = memory.split(bytes.capacity());
            Bytes::from_owner(Piece { bytes, _memory: memory })
        };
        Ok(AnswerBody::new(self.done.into_iter().map(held).collect()))
    }
}

/// No memory is left for an answer.
pub fn no_memory() -> Problem {
    Problem::new(Code::Throttled, "no memory for the answer is free")
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cut();
        let room = (PIECE_ROOM_BYTES - self.out.len()).min(bytes.len());
        self.out.extend_from_slice(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A piece with the memory that it takes.
struct Piece {
    bytes: Vec<u8>,
    _memory: Memory,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct AnswerBody {
    pieces: VecDeque<Bytes>,
    left: u64,
}

impl AnswerBody {
    fn new(pieces: VecDeque<Bytes>) -> Self {
        let left = pieces.iter().map(|piece| saturated::<u64, _>(piece.len())).sum();
        Self { pieces, left }
    }

    /// The pieces in order.
    pub fn into_pieces(self) -> impl Iterator<Item = Bytes> {
        self.pieces.into_iter()
    }
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.left -= piece.as_ref().map_or(0, |piece| saturated::<u64, _>(piece.len()));
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl From<AnswerBody> for Body {
    fn from(body: AnswerBody) -> Self {
        Self::new(body)
    }
}

impl IntoResponse for AnswerBody {
    fn into_response(self) -> Response {
        Response::new(self.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use millpond_engine::memory::{Budget, Room};
    use std::io::Write;

    #[tokio::test]
    async fn each_piece_holds_its_memory_until_it_is_dropped() {
        let budget = Budget::new(4 * limits::MIB);
        let memory = budget.take(3 * limits::MIB, Room::IfFree).await.expect("it is free");
        let mut pieces = Pieces::default();
        pieces.write_all(&vec![7; 400 * limits::KIB]).expect("no writer fails");
        assert!(pieces.allocated_bytes() < 600 * limits::KIB);
        let mut body = pieces.finish(Some(memory)).expect("there is memory");
        let used = budget.used_bytes();
        assert!((400 * limits::KIB..600 * limits::KIB).contains(&used), "{used}");
        let first = body.frame().await.expect("a piece").expect("no error").into_data().expect("data");
        assert_eq!(budget.used_bytes(), used);
        let slice = first.slice(0..1);
        drop(first);
        assert_eq!(budget.used_bytes(), used, "a part of the piece is still in use");
        drop(slice);
        assert!(budget.used_bytes() < used - PIECE_BYTES + limits::KIB);
        let rest = body.collect().await.expect("no error").to_bytes();
        assert_eq!(rest.len(), 400 * limits::KIB - PIECE_ROOM_BYTES);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn an_answer_without_memory_is_refused() {
        let budget = Budget::new(limits::MIB);
        let memory = budget.take(limits::MIB, Room::IfFree).await.expect("it is free");
        let mut pieces = Pieces::default();
        pieces.write_all(&vec![7; 2 * limits::MIB]).expect("no writer fails");
        assert_eq!(pieces.finish(Some(memory)).expect_err("too large").code, Code::Throttled);
        assert_eq!(budget.used_bytes(), 0);
    }
}
