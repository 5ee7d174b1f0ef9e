//! One local PostgreSQL instance.
