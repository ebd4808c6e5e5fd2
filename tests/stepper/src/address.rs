//! Names of addresses, from the program's debug information.

use addr2line::{Loader, Location};

/// The functions at `address`, innermost first, each with file and line.
pub(crate) fn describe(address: usize) -> String {
    let mut functions = functions(address);
    // The compiler inlines a dozen iterators into one another; only the innermost one is told.
    let mut innermost = true;
    functions.retain(|function| {
        let library = ["core::", "std::", "alloc::"]
            .iter()
            .any(|library| function.strip_prefix('<').unwrap_or(function).starts_with(library));
        std::mem::take(&mut innermost) || !library
    });
    if functions.is_empty() { format!("{address:#x}") } else { functions.join(", in ") }
}

/// The program's debug information, and the address that it was loaded at.
type Symbols = Option<(Loader, usize)>;

thread_local! {
    /// Read when the first address is asked for.
    static SYMBOLS: Symbols = load();
}

fn load() -> Symbols {
    let (program, base) = program()?;
    Some((Loader::new(program).ok()?, base))
}

fn functions(address: usize) -> Vec<String> {
    SYMBOLS
        .with(|symbols| symbols.as_ref().map_or_else(Vec::new, |(loader, base)| find(loader, *base, address)))
}

fn find(loader: &Loader, base: usize, address: usize) -> Vec<String> {
    let address = address.wrapping_sub(base) as u64;
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(address) {
        while let Ok(Some(frame)) = frames.next() {
            let Some(Ok(name)) = frame.function.as_ref().map(|name| name.demangle()) else { continue };
            let place = frame.location.as_ref().and_then(place);
            found.push(format!("{name} ({})", place.as_deref().unwrap_or("?")));
        }
    }
    // A program with line tables alone has places, and symbols in place of functions.
    if found.is_empty()
        && let Some(name) = loader.find_symbol(address)
    {
        let name = addr2line::demangle_auto(name.into(), None);
        let location = loader.find_location(address).ok().flatten();
        found.push(format!("{name} ({})", location.as_ref().and_then(place).as_deref().unwrap_or("?")));
    }
    found
}

/// File and line of a location.
fn place(location: &Location<'_>) -> Option<String> {
    let file = location.file?.rsplit('/').next()?;
    Some(format!("{file}:{}", location.line?))
}

/// The program's file, and its first address.
fn program() -> Option<(std::path::PathBuf, usize)> {
    let program = std::env::current_exe().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let line = maps.lines().find(|line| program.to_str().is_some_and(|path| line.ends_with(path)))?;
    let base = usize::from_str_radix(line.split('-').next()?, 16).ok()?;
    Some((program, base))
}
