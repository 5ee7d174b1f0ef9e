//! Whole clusters, end to end: the built program, real PostgreSQL, real stores; processes killed and
//! frozen, links cut. Each module is a topic.

mod asynchronous;
mod harness;
