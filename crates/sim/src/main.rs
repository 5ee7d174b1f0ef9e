//! `make sim`: see [`stolon_sim::batch`].

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let failed = stolon_sim::batch::command(&arguments, &mut std::io::stdout().lock())?;
    if failed {
        std::process::exit(1);
    }
    Ok(())
}
