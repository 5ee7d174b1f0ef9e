//! Clients of the database: each writes rows that nobody else writes, reads, and remembers what it
//! was told. Most come through proxies; some go round them.

use std::time::Duration;

use super::World;
use super::event::{Actor, ClientWord, ConnectionId, PostgresEvent, What};
use super::network::Way;
use crate::chance::Chance;
use crate::plan::Shape;

/// What a client wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Commit the row of this number.
    Write(u64),
    /// Look at the newest rows.
    Read,
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Response {
    /// It has a connection, to a server in that life.
    Connected(u32),
    /// The row is committed; whether the commit waited for synchronous standbys, and where it is.
    Committed {
        /// The row.
        txn: u64,
        /// Whether standbys had it before.
        synchronous: bool,
    },
    /// The rows that it saw.
    Seen(Vec<u64>),
    /// It was not done.
    Failed,
    /// The connection is gone.
    Closed,
}

/// How a client comes to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// By a proxy, to the primary.
    Primary,
    /// By a proxy, to a standby.
    Reading,
    /// Round the proxies.
    Direct,
}

impl Entry {
    /// That of the client of this number.
    pub(super) const fn of(shape: &Shape, number: usize) -> Self {
        if number < shape.clients {
            Self::Primary
        } else if number < shape.clients + shape.direct_clients {
            Self::Direct
        } else {
            Self::Reading
        }
    }
}

/// A connection of a client.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) client: usize,
    pub(crate) entry: Entry,
    /// The proxy; none: it goes round them.
    pub(crate) proxy: Option<usize>,
    /// The proxy's permit under which it was made.
    pub(crate) permit: u64,
    /// The keeper whose instance it goes to.
    pub(crate) target: usize,
    pub(crate) server_life: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Apart,
    Connecting,
    Ready,
    Waiting(Operation),
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    chance: Chance,
    pub(crate) entry: Entry,
    state: State,
    connection: Option<ConnectionId>,
    /// The proxy, or instance, that it tries.
    tries: usize,
    turn: u64,
}

impl Client {
    /// A client without a connection.
    pub(crate) fn new(seed: u64, number: usize, entry: Entry) -> Self {
        Self {
            chance: Chance::of(seed, "client", number as u64),
            entry,
            state: State::Apart,
            connection: None,
            tries: number,
            turn: 0,
        }
    }
}

impl World {
    /// A client goes on after so long.
    pub(crate) fn client_later(&mut self, c: usize, pause: Duration) {
        let client = &mut self.clients[c];
        client.turn += 1;
        let turn = client.turn;
        self.queue.put(self.now + pause, What::ClientTurn(c, turn));
    }

    /// A client does the next thing.
    pub(crate) fn client_turn(&mut self, c: usize, turn: u64) {
        if self.clients[c].turn != turn {
            return;
        }
        match self.clients[c].state {
            State::Apart => self.client_connects(c),
            State::Ready => self.client_asks(c),
            State::Connecting | State::Waiting(_) => {}
        }
    }

    fn client_waits(&mut self, c: usize) {
        let client = &mut self.clients[c];
        client.turn += 1;
        let patience = client.chance.millis(2000, 6000);
        let turn = client.turn;
        self.queue
            .put(self.now + patience, What::ClientTimeout(c, turn));
    }

    fn client_connects(&mut self, c: usize) {
        self.serial += 1;
        let id = self.serial;
        let entry = self.clients[c].entry;
        let choices = match entry {
            Entry::Primary => 0..self.proxies.len(),
            Entry::Reading => self.reading_proxies(),
            Entry::Direct => 0..self.keepers.len(),
        };
        let choice = choices.start + self.clients[c].tries % choices.len();
        let direct = entry == Entry::Direct;
        let connection = Connection {
            client: c,
            entry,
            proxy: (!direct).then_some(choice),
            permit: 0,
            target: if direct { choice } else { 0 },
            server_life: 0,
        };
        self.connections.insert(id, connection);
        let client = &mut self.clients[c];
        client.state = State::Connecting;
        client.connection = Some(id);
        self.client_waits(c);
        self.client_says(c, id, ClientWord::Connect);
    }

    fn client_asks(&mut self, c: usize) {
        let Some(id) = self.clients[c].connection else {
            return;
        };
        let reads = self.clients[c].entry == Entry::Reading;
        let (leaves, looks) = if reads { (10, 850) } else { (80, 300) };
        if self.clients[c].chance.happens(leaves) {
            // It comes by another way next time.
            self.connections.remove(&id);
            self.client_gives_up(c);
            return;
        }
        let operation = if self.clients[c].chance.happens(looks) {
            Operation::Read
        } else {
            self.history.begin()
        };
        self.clients[c].state = State::Waiting(operation);
        self.client_waits(c);
        self.client_says(c, id, ClientWord::Do(operation));
    }

    fn client_says(&mut self, c: usize, id: ConnectionId, word: ClientWord) {
        let Some(connection) = self.connections.get(&id).cloned() else {
            self.client_hears(c, id, &Response::Closed);
            return;
        };
        let from = Actor::Client(c);
        if let Some(p) = connection.proxy {
            let life = self.proxies[p].process.life;
            self.send(
                from,
                Actor::Proxy(p),
                Way::Stream,
                What::FromClient(p, life, id, word),
            );
            return;
        }
        let k = connection.target;
        let (event, life) = match word {
            ClientWord::Connect => (PostgresEvent::Connect(id), self.instances[k].life),
            ClientWord::Do(operation) => (PostgresEvent::Do(id, operation), connection.server_life),
        };
        self.send(
            from,
            Actor::Postgres(k),
            Way::Stream,
            What::Postgres(k, life, event),
        );
    }

    /// A client hears something of a connection.
    pub(crate) fn client_hears(&mut self, c: usize, id: ConnectionId, response: &Response) {
        if self.clients[c].connection != Some(id) {
            return;
        }
        let state = self.clients[c].state;
        let route = self.connections.get(&id).map(|of| (of.proxy, of.target));
        match (state, response) {
            (State::Connecting, Response::Connected(life)) => {
                if let Some(connection) = self.connections.get_mut(&id) {
                    connection.server_life = *life;
                }
                self.clients[c].state = State::Ready;
                self.client_later(c, Duration::from_micros(500));
            }
            (State::Waiting(Operation::Write(_)), Response::Committed { txn, synchronous }) => {
                self.write_acknowledged(c, *txn, *synchronous, route);
                self.check_reading_session(c, *txn, route);
                self.client_rests(c);
            }
            (State::Waiting(Operation::Read), Response::Seen(rows)) => {
                self.rows_seen(c, rows, route);
                self.client_rests(c);
            }
            (State::Waiting(_), Response::Failed) => {
                self.history.failed += 1;
                if self.clients[c].entry == Entry::Reading {
                    self.note("writes-refused-to-reader");
                    return self.client_rests(c);
                }
                // A server that refuses to write is not the one to stay at.
                self.client_gives_up(c);
            }
            (State::Waiting(_) | State::Connecting | State::Ready, Response::Closed) => {
                self.client_gives_up(c);
            }
            _ => {}
        }
    }

    /// It rests as long as its pace says, but no longer beyond the last fault's end than that of a calm
    /// world allows.
    fn client_rests(&mut self, c: usize) {
        let shape = &self.plan.shape;
        let stormy = shape.calm_from.saturating_sub(self.now);
        let longest = stormy + Duration::from_millis(shape.calm_pace().1);
        let pace = if stormy.is_zero() {
            shape.calm_pace()
        } else {
            shape.pace
        };
        let client = &mut self.clients[c];
        client.state = State::Ready;
        let pause = client.chance.millis(pace.0, pace.1).min(longest);
        self.client_later(c, pause);
    }

    /// A client has waited for too long.
    pub(crate) fn client_timeout(&mut self, c: usize, turn: u64) {
        if self.clients[c].turn == turn {
            self.client_gives_up(c);
        }
    }

    fn client_gives_up(&mut self, c: usize) {
        let client = &mut self.clients[c];
        if let State::Waiting(Operation::Write(_)) = client.state {
            self.history.unknown += 1;
        }
        client.state = State::Apart;
        client.connection = None;
        client.tries += 1;
        let pause = client.chance.millis(100, 900);
        self.client_later(c, pause);
    }
}
