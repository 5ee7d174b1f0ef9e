//! Where the tests find Consul.

use std::path::PathBuf;

/// Consul's program: in the PATH, or where `scripts/setup test` unpacks it; none: it is not here.
pub(crate) fn consul() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut found: Vec<PathBuf> = std::env::split_paths(&path)
        .map(|folder| folder.join("consul"))
        .collect();
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    if let Some(cache) = cache.or_else(home) {
        found.push(cache.join("stolon/consul/usr/bin/consul"));
    }
    found.into_iter().find(|program| program.is_file())
}

/// What a test needs that is not run without Consul; it says so where nothing captures it, and
/// `make test` counts it.
pub(crate) fn consul_or_not_run(test: &str) -> Option<PathBuf> {
    use std::io::Write as _;
    let program = consul();
    if program.is_none() {
        let told = writeln!(
            std::io::stderr(),
            "not run: {test}: Consul is not here (scripts/setup test)"
        );
        drop(told);
    }
    program
}
