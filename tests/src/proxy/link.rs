//! One connection through the proxy.

use super::postgres::{Does, Frames, Statements};
use super::{CommitCut, Control, Deed, Protocol, Silence, Target, Weather};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

const READ_BYTES: usize = 64 << 10;

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One side closed it.
    Closed,
    /// The proxy closes it at once.
    Cut,
    /// The proxy closes it after everything it sent has arrived.
    CutGently,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

pub(super) async fn run(mut client: TcpStream, control: Arc<Control>) {
    let mut rng = StdRng::seed_from_u64(control.draw_seed());
    let gently = rng.random_bool(0.5);
    let target = control.target.lock().clone();
    let server = if control.weather.borrow().1.refuse { None } else { connect(&target).await };
    let Some(mut server) = server else {
        control.count(Deed::Refused);
        client.set_zero_linger().ok();
        return;
    };
    control.count(Deed::Connected);
    client.set_nodelay(true).ok();
    let mut cuts = control.cut_all.subscribe();
    let link = Link {
        control: &control,
        state: Mutex::new(State { rng, weather: u64::MAX, left: None, lost: Lost::Nothing }),
        doom: Mutex::new(None),
    };
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = tokio::io::split(&mut *server);
        tokio::select! {
            end = link.up(from_client, to_server) => end,
            end = link.down(from_server, to_client) => end,
            _ = cuts.changed() => {
                control.count(Deed::CutAll);
                End::Cut
            }
        }
    };
    let lost = link.state.lock().lost;
    if lost > Lost::Nothing && end == End::Closed {
        // The other side does not learn of the close while the proxy lets nothing through.
        control
            .weather
            .subscribe()
            .wait_for(|(_, weather)| !matches!(weather.silence, Silence::Swallow | Silence::SwallowAnswers))
            .await
            .ok();
    }
    if end == End::Cut && !gently {
        client.set_zero_linger().ok();
    }
}

async fn connect(target: &Target) -> Option<Box<dyn Stream>> {
    Some(match target {
        Target::Tcp(address) => {
            let stream = TcpStream::connect(address).await.ok()?;
            stream.set_nodelay(true).ok();
            Box::new(stream)
        }
        Target::Unix(path) => Box::new(UnixStream::connect(path).await.ok()?),
    })
}

struct State {
    rng: StdRng,
    /// Number of the weather for which `left` was drawn.
    weather: u64,
    /// Bytes that still pass before the cut.
    left: Option<u64>,
    lost: Lost,
}

/// Directions that stay silent for good, since bytes of them were swallowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Lost {
    Nothing,
    Answers,
    Everything,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// A commit whose answer will not arrive whole.
#[derive(Clone, Copy)]
struct Doom {
    cut: CommitCut,
    sync: u64,
}

struct Link<'a> {
    control: &'a Control,
    state: Mutex<State>,
    doom: Mutex<Option<Doom>>,
}

impl Link<'_> {
    async fn up(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> End {
        let mut reader = match &self.control.protocol {
            Protocol::Bytes => None,
            Protocol::Postgres { commits } => {
                Some((Frames::of_client(), Statements::new(Arc::clone(commits))))
            }
        };
        let mut racing = false;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { return End::Closed };
            let Some((frames, statements)) = &mut reader else {
                match self.pass(Way::Up, &buffer[..read], &mut to).await {
                    Some(end) => return end,
                    None => continue,
                }
            };
            frames.push(&buffer[..read]);
            let mut batch = BytesMut::new();
            let mut end = None;
            while let Some(frame) = frames.pop().filter(|_| end.is_none()) {
                let does = statements.see(&frame);
                let cut = if let Does::Commit { nth, sync } = does { self.commit(nth, sync) } else { None };
                if cut == Some(CommitCut::Before) {
                    end = cut;
                    break;
                }
                batch.extend_from_slice(&frame.bytes);
                racing |= cut == Some(CommitCut::Racing);
                let synchronised = does == Does::Sync || frame.tag == b'Q';
                end = (racing && synchronised).then_some(CommitCut::Racing);
            }
            if let Some(end) = self.pass(Way::Up, &batch, &mut to).await {
                return end;
            }
            if let Some(cut) = end {
                self.control.count(Deed::CutAtCommit(cut));
                return End::Cut;
            }
        }
    }

    async fn down(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> End {
        let mut frames = matches!(self.control.protocol, Protocol::Postgres { .. }).then(Frames::of_server);
        // Number of the `Sync` that the server answers next; its first answer is to the start-up message.
        let mut sync = 0;
        let mut held = BytesMut::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let Ok(read @ 1..) = from.read(&mut buffer).await else { return End::Closed };
            let Some(frames) = &mut frames else {
                match self.pass(Way::Down, &buffer[..read], &mut to).await {
                    Some(end) => return end,
                    None => continue,
                }
            };
            frames.push(&buffer[..read]);
            let mut batch = BytesMut::new();
            let mut torn = None;
            while let Some(frame) = frames.pop().filter(|_| torn.is_none()) {
                let doom = self.doom.lock().filter(|doom| doom.sync == sync);
                if doom.is_some() { &mut held } else { &mut batch }.extend_from_slice(&frame.bytes);
                if frame.tag == b'Z' {
                    sync += 1;
                    torn = doom.map(|doom| doom.cut);
                }
            }
            if let Some(end) = self.pass(Way::Down, &batch, &mut to).await {
                return end;
            }
            if let Some(cut) = torn {
                self.control.count(Deed::CutAtCommit(cut));
                return self.tear(cut, held.freeze(), &mut to).await;
            }
        }
    }

    /// Sends the part of a commit's answer that `cut` lets through, which is never the whole answer.
    async fn tear(&self, cut: CommitCut, answer: Bytes, to: &mut (impl AsyncWrite + Unpin)) -> End {
        if cut != CommitCut::AnswerTorn {
            return End::Cut;
        }
        let length = self.state.lock().rng.random_range(1..answer.len());
        self.pass(Way::Down, &answer[..length], to).await.unwrap_or(End::CutGently)
    }

    /// Draws whether and how a commit is cut, and notes it if the cut concerns its answer.
    fn commit(&self, nth: Option<usize>, sync: u64) -> Option<CommitCut> {
        self.control.count(Deed::Commit);
        let cuts = self.control.weather.borrow().1.commit_cuts.clone();
        let mut drawn = self.state.lock().rng.random_range(0..100);
        let (cut, _) = cuts.into_iter().find(|(_, percent)| {
            let hit = drawn < *percent;
            drawn = drawn.saturating_sub(*percent);
            hit
        })?;
        if matches!(cut, CommitCut::AnswerLost | CommitCut::AnswerTorn) {
            *self.doom.lock() = Some(Doom { cut, sync });
        }
        self.control.count(Deed::AimedAt(nth));
        Some(cut)
    }

    /// Forwards bytes under the current weather; `Some` when the connection has ended.
    async fn pass(&self, way: Way, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> Option<End> {
        if bytes.is_empty() {
            return None;
        }
        self.wait_for_better_weather().await;
        let (send, cut) = {
            let (number, weather) = self.control.weather.borrow().clone();
            let mut state = self.state.lock();
            let lost = match weather.silence {
                Silence::Swallow => Lost::Everything,
                Silence::SwallowAnswers if way == Way::Down => Lost::Answers,
                _ => Lost::Nothing,
            };
            if lost > state.lost {
                state.lost = lost;
                self.control.count(Deed::Swallowed);
            }
            if state.lost == Lost::Everything || (state.lost == Lost::Answers && way == Way::Down) {
                return None;
            }
            state.allow(number, &weather, bytes)
        };
        if to.write_all(send).await.is_err() || to.flush().await.is_err() {
            return Some(End::Closed);
        }
        if cut {
            self.control.count(Deed::CutWithin);
            return Some(End::CutGently);
        }
        None
    }

    async fn wait_for_better_weather(&self) {
        let weather = self.control.weather.borrow().1.clone();
        if weather.silence == Silence::Stall {
            self.control.count(Deed::Stalled);
            self.control
                .weather
                .subscribe()
                .wait_for(|(_, weather)| weather.silence != Silence::Stall)
                .await
                .ok();
        }
        if weather.delay > Duration::ZERO {
            self.control.count(Deed::Delayed);
            let delay = weather.delay.mul_f64(self.state.lock().rng.random());
            tokio::time::sleep(delay).await;
        }
    }
}

impl State {
    /// The bytes that may pass, and whether the connection is cut after them.
    fn allow<'a>(&mut self, number: u64, weather: &Weather, bytes: &'a [u8]) -> (&'a [u8], bool) {
        if self.weather != number {
            self.weather = number;
            self.left = weather.cut_within.map(|within| self.rng.random_range(0..=within));
        }
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        match &mut self.left {
            Some(left) if length > *left => (&bytes[..usize::try_from(*left).unwrap_or(0)], true),
            Some(left) => {
                *left -= length;
                (bytes, false)
            }
            None => (bytes, false),
        }
    }
}
