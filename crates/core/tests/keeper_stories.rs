//! Stories: what a keeper does with its disk and its instance, as text.
//!
//! Each file under `keeper/stories/` is a story as `support/story.rs` reads it (`REWRITE=1 cargo test
//! -p stolon-core --test keeper_stories`). The commands are those of [`command`] and
//! `keeper/script.rs`.

#[path = "keeper/script.rs"]
mod script;
#[path = "support/story.rs"]
mod story;
#[path = "keeper/world.rs"]
#[allow(dead_code, reason = "shared with the tests that kill the keeper")]
mod world;

use std::time::Duration;

use stolon_core::model::GoDuration;
use world::World;

/// Nothing in a story takes longer to come to rest.
const MOST: Duration = Duration::from_mins(2);

#[test]
fn every_story_goes_as_written() {
    story::all_go_as_written("keeper/stories", 45, |written| {
        let mut world = World::new();
        story::tell(written, |line| command(&mut world, line))
    });
}

/// Carries out a command and returns what happened.
///
/// * `pass TIME` time passes; `settle` it passes until nothing is done any more
/// * `status` shows what is on disk, what runs, and what was told
/// * `looks` how often it looked at its instance since that was asked last
/// * `parameters NAME …` shows what the configuration says of them, `configuration` all of it
/// * all else changes the world at once: see `script.rs`
fn command(world: &mut World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[0] {
        "status" => return format!("{}\n", world.describe()),
        "parameters" => return format!("{}\n", world.parameters(&words[1..])),
        "configuration" => return world.configuration(),
        "looks" => return format!("{} looks\n", std::mem::take(&mut world.looks)),
        "settle" => world.settle(MOST),
        "pass" => {
            let time: GoDuration = words[1].parse().expect("a duration");
            world.pass(time.to_std());
        }
        _ => script::change(world, &words),
    }
    let mut text = world.log.drain(..).collect::<Vec<_>>().join("\n");
    if !text.is_empty() {
        text.push('\n');
    }
    text
}
