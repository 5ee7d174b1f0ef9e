//! Sessions of one question, at a server that costs next to nothing: what is left is what a proxy spends
//! on a connection, from its accepting to its end. With PostgreSQL behind it each server process costs
//! some milliseconds, and little of the proxy is seen.

use std::time::{Duration, Instant};

use crate::e2e::harness::cluster::Cluster;
use crate::stand_in::{StandIn, talk_once};
use crate::ways::{self, Second, Way};
use crate::{Measured, processor_time, tell_row};

/// How many clients there are at a time.
const CLIENTS: usize = 4;

pub(crate) fn measure(
    (cluster, second): (&Cluster, &Second),
    stand_in: &StandIn,
    rounds: usize,
    seconds: u64,
) {
    let ways = ways::transparent(cluster, second, stand_in.port);
    println!("\nbrief sessions with a stand-in: {CLIENTS} clients; medians of {rounds}");
    let in_turn = |round: usize| {
        let turns = (0..ways.len()).map(|turn| (turn + round) % ways.len());
        let mut measured: Vec<(usize, Measured)> = turns
            .map(|number| (number, one(stand_in, &ways[number], seconds)))
            .collect();
        measured.sort_by_key(|(number, _)| *number);
        measured.into_iter().map(|(_, measured)| measured).collect()
    };
    let rounds: Vec<Vec<Measured>> = (0..rounds).map(in_turn).collect();
    tell_row("us/session", &ways, &rounds);
}

fn one(stand_in: &StandIn, way: &Way, seconds: u64) -> Measured {
    let before = way.pid.map_or(0.0, processor_time);
    let (began, port) = (Instant::now(), way.port);
    let clients = (0..CLIENTS).map(|_| {
        stand_in.runtime.spawn(async move {
            let mut sessions = 0_u32;
            while began.elapsed() < Duration::from_secs(seconds) {
                talk_once(port).await.expect("an answer");
                sessions += 1;
            }
            sessions
        })
    });
    let clients: Vec<_> = clients.collect();
    let sessions = clients
        .into_iter()
        .map(|client| stand_in.runtime.block_on(client).expect("a task"));
    let sessions = f64::from(sessions.sum::<u32>());
    let spent = way.pid.map_or(0.0, processor_time) - before;
    Measured {
        rate: sessions / began.elapsed().as_secs_f64(),
        cost: spent / sessions * 1e6,
    }
}
