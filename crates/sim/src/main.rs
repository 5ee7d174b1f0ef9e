//! `make sim`: see [`stolon_sim::batch`].

/// Documents and reports are copied millions of times; glibc's allocator takes half of a run for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let failed = stolon_sim::batch::command(&arguments, &mut std::io::stdout().lock())?;
    if failed {
        std::process::exit(1);
    }
    Ok(())
}
