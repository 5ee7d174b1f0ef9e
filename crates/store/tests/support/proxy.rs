//! A TCP proxy that loses what passes through it, at will.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// What passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "not every test needs every kind of loss")]
pub(crate) enum Passing {
    /// Everything.
    All,
    /// What clients ask; the answers are lost.
    Questions,
    /// Everything until the server has said something so often; then the same.
    Until(u64),
    /// Nothing. The first request for the cluster data on each connection waits and arrives late,
    /// with what came before it; all that comes after it is lost.
    Nothing,
    /// Everything but the first request for the cluster data on each connection, which waits and
    /// arrives late.
    Late,
}

#[derive(Debug, Clone, Copy)]
struct State {
    passing: Passing,
    /// Connections before this one pass nothing, whatever `passing` says.
    stranded: u64,
    connections: u64,
    /// How often a server has said something, whether it passed or not.
    answers: u64,
}

/// A proxy before one server; it ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) endpoint: String,
    state: watch::Sender<State>,
    _task: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Begins to listen before the server at that endpoint, an `http://` address.
    pub(crate) async fn before(endpoint: &str) -> Self {
        let server = endpoint.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let state = watch::channel(State {
            passing: Passing::All,
            stranded: 0,
            connections: 0,
            answers: 0,
        })
        .0;
        let task = tokio::spawn(serve(listener, server, state.clone()));
        Self {
            endpoint: format!("http://{address}"),
            state,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Decides what passes from now on, on all connections.
    pub(crate) fn let_pass(&self, passing: Passing) {
        self.state.send_modify(|state| state.passing = passing);
    }

    /// Lets the present connections go silent for ever; new ones are not concerned.
    pub(crate) fn strand(&self) {
        self.state
            .send_modify(|state| state.stranded = state.connections);
    }

    /// How many connections have been made so far.
    pub(crate) fn connections(&self) -> u64 {
        self.state.borrow().connections
    }

    /// How often the server has said something so far, whether it passed or not.
    pub(crate) fn answers(&self) -> u64 {
        self.state.borrow().answers
    }
}

async fn serve(listener: TcpListener, server: String, state: watch::Sender<State>) {
    let mut pumps = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect(&server).await else {
            continue;
        };
        let number = state.borrow().connections;
        state.send_modify(|state| state.connections += 1);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        pumps.spawn(ask(from_client, to_server, number, state.subscribe()));
        pumps.spawn(answer(from_server, to_client, number, state.clone()));
    }
}

impl State {
    fn carries(&self, number: u64) -> bool {
        self.passing != Passing::Nothing && self.stranded <= number
    }

    /// Whether a request for the cluster data goes on its way.
    fn asks(&self, number: u64) -> bool {
        self.passing != Passing::Late && self.carries(number)
    }
}

/// What a request for the cluster data contains.
const REQUEST: &[u8] = b"clusterdata";

/// Carries what a client says.
async fn ask(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    mut state: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut held = Vec::new();
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        held.extend_from_slice(&buffer[..count]);
        let now = *state.borrow();
        let is_request = held.windows(REQUEST.len()).any(|part| part == REQUEST);
        let late = is_request && !now.asks(number);
        if !is_request && !now.carries(number) {
            continue;
        }
        if late && state.wait_for(|state| state.asks(number)).await.is_err()
            || to.write_all(&held).await.is_err()
        {
            return;
        }
        held.clear();
        if late {
            // The server does not hear that the client has given up meanwhile.
            std::future::pending::<()>().await;
        }
    }
}

/// Carries what a server says.
async fn answer(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    number: u64,
    state: watch::Sender<State>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        state.send_modify(|state| state.answers += 1);
        let now = *state.borrow();
        let lost = match now.passing {
            Passing::Questions => true,
            Passing::Until(most) => now.answers > most,
            Passing::All | Passing::Nothing | Passing::Late => false,
        };
        let lost = lost || !now.carries(number);
        if !lost {
            // Its client may be gone; the server is still listened to.
            let _ = to.write_all(&buffer[..count]).await;
        }
    }
}
