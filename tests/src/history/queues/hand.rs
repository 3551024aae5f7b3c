//! One hand-out of one record, and the settlements that named it.

use super::{Checker, HandNumber, OpNumber, QueueNumber};
use crate::history::queue::{Intent, Status, Token};
use crate::history::record::Seen;

#[derive(Clone, Copy)]
pub(super) struct Hand<'a> {
    pub queue: QueueNumber,
    pub partition: i32,
    pub offset: i64,
    pub attempt: u32,
    pub failures: u32,
    pub seen: Seen,
    pub key: Option<&'a str>,
    pub receipt: Token,
    pub lease: Token,
    /// The call whose answer was the first to contain the hand-out.
    pub op: OpNumber,
    pub invoked: u64,
    pub returned: u64,
    /// Latest time of the grant, by the server's clock.
    pub now_ms: i64,
    /// Deadline when it was handed out, before any renewal.
    pub deadline_ms: i64,
    /// Start and end of its range in [`Checker::touches`].
    pub touches: (usize, usize),
}

/// A settlement entry that named a hand-out.
#[derive(Clone, Copy)]
pub(super) struct Touch<'a> {
    pub hand: HandNumber,
    pub op: OpNumber,
    pub request: Option<&'a str>,
    pub invoked: u64,
    /// Time of the answer; `u64::MAX` if the outcome is unknown.
    pub returned: u64,
    pub intent: &'a Intent,
    /// `None`: unknown.
    pub status: Option<Status>,
    pub deadline_ms: Option<i64>,
}

impl Touch<'_> {
    pub fn ended(&self) -> bool {
        matches!(self.status, Some(Status::Acked | Status::Released | Status::Dead))
    }

    pub fn may_have_ended(&self) -> bool {
        self.ended() || (self.status.is_none() && !matches!(self.intent, Intent::Renew { .. }))
    }

    pub fn may_have_acked(&self) -> bool {
        self.status == Some(Status::Acked) || (self.status.is_none() && *self.intent == Intent::Ack)
    }

    /// Whether both are attempts at one settlement.
    pub fn repeats(&self, other: &Self) -> bool {
        self.op != other.op && self.request.is_some() && self.request == other.request
    }
}

/// Known end of a hand-out, by what its worker was told.
#[derive(Clone, Copy)]
pub(super) struct Sure<'a> {
    pub touch: Touch<'a>,
    /// Earliest time of the end: an attempt without an answer may have had the effect before the one that was
    /// answered.
    pub from: u64,
}

impl<'a> Checker<'a> {
    pub(super) fn sure_end(&self, hand: &Hand<'a>) -> Option<Sure<'a>> {
        let touches = self.touches_of(hand);
        let touch = *touches.iter().find(|t| t.ended())?;
        let attempts = touches.iter().filter(|t| t.status.is_none() && t.repeats(&touch));
        Some(Sure { touch, from: attempts.map(|t| t.invoked).fold(touch.invoked, u64::min) })
    }

    /// Lower bound of the deadline, by the server's clock, considering renewals sent before `until`. A later
    /// renewal may have made the deadline earlier.
    pub(super) fn deadline_ms(&self, hand: &Hand<'a>, until: u64) -> i64 {
        let renewals = || {
            let touches = self.touches_of(hand).iter().filter(move |t| t.invoked < until);
            touches.filter_map(|t| match (t.intent, t.status) {
                (Intent::Renew { lease_ms }, None) => {
                    Some((t, self.clock.at_least(t.invoked).max(hand.now_ms) + lease_ms))
                }
                (Intent::Renew { lease_ms }, Some(Status::Renewed)) => Some((
                    t,
                    t.deadline_ms
                        .unwrap_or_else(|| self.clock.at_least(t.invoked).max(hand.now_ms) + lease_ms),
                )),
                _ => None,
            })
        };
        let superseded =
            |at: u64| renewals().any(|(t, _)| t.status.is_some() && t.invoked > at && t.returned < until);
        let last = renewals()
            .filter(|(t, _)| !superseded(t.returned))
            .map(|(_, deadline_ms)| deadline_ms)
            .min()
            .unwrap_or(i64::MAX);
        if superseded(hand.returned.saturating_sub(1)) { last } else { last.min(hand.deadline_ms) }
    }

    /// Whether the lease may have expired at this time of the server's clock.
    pub(super) fn may_have_expired(&self, hand: &Hand<'a>, now_ms: i64) -> bool {
        self.deadline_ms(hand, u64::MAX) <= now_ms.saturating_add(self.options.slack_ms)
    }
}
