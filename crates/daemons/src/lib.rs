//! The shells around the decisions.
