//! The shared memory of a cluster.
