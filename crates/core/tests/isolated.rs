//! Functions in child processes, with everything that can end one. Linux alone.
//!
//! This test has a `main` of its own: the children are this very executable.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(target_os = "linux")]
#[path = "isolated/cases.rs"]
mod cases;

#[cfg(target_os = "linux")]
fn main() {
    longshore_core::init_with(cases::functions());
    cases::parent_if_asked();
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        for (name, _) in cases::CASES {
            println!("{name}: test");
        }
        return;
    }
    let exact = args.iter().any(|arg| arg == "--exact");
    let filter = args.iter().find(|arg| !arg.starts_with('-'));
    let wanted = |name: &str| filter.is_none_or(|filter| if exact { name == filter } else { name.contains(filter.as_str()) });
    // A case that fails panics, which ends all: the others are run again when it is mended.
    let mut passed = 0;
    for (name, case) in cases::CASES.iter().filter(|(name, _)| wanted(name) && !args.iter().any(|arg| arg == "--ignored")) {
        print!("test {name} ... ");
        case();
        println!("ok");
        passed += 1;
    }
    println!("\ntest result: ok. {passed} passed; 0 failed; 0 ignored; 0 measured; {} filtered out\n", cases::CASES.len() - passed);
}

#[cfg(not(target_os = "linux"))]
fn main() {}
