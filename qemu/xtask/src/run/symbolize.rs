//! Addresses to functions and lines, from the kernel's debug information.

use std::path::Path;

use addr2line::{Loader, Location};

use crate::error::Error;
use crate::workspace;

/// Symbols of one kernel.
pub(crate) struct Symbols {
    loader: Loader,
}

impl Symbols {
    /// Reads the debug information of `elf`.
    pub(crate) fn load(elf: &Path) -> Result<Self, Error> {
        let loader = Loader::new(elf)
            .map_err(|error| Error::DebugInfo { path: elf.to_owned(), reason: error.to_string() })?;
        Ok(Self { loader })
    }

    /// A backtrace for people: one line per function, inlined ones included.
    ///
    /// `addresses` are the innermost instruction and then return addresses, which are one past the call.
    pub(crate) fn backtrace(&self, addresses: &[String]) -> Vec<String> {
        let mut lines = Vec::new();
        for (depth, text) in addresses.iter().enumerate() {
            let Some(address) = parse_address(text) else {
                lines.push(format!("{depth:>3}: {text}"));
                continue;
            };
            let call = if depth == 0 { address } else { address.saturating_sub(1) };
            let functions = self.functions(call);
            if functions.is_empty() {
                lines.push(format!("{depth:>3}: {address:#018x} ?"));
            }
            for (inlining, function) in functions.iter().enumerate() {
                match inlining {
                    0 => lines.push(format!("{depth:>3}: {address:#018x} {function}")),
                    _ => lines.push(format!("{:>23} {function}", "in")),
                }
            }
        }
        lines
    }

    /// The function that the instruction at `address` was written in, the library's inlined ones left out.
    pub(crate) fn function(&self, address: &str) -> Option<String> {
        self.functions(parse_address(address)?).pop()
    }

    /// The function that asked the global allocator for memory, in a backtrace of return addresses from inside
    /// the heap: the first behind it that is none of Rust's library.
    pub(crate) fn allocating_function(&self, addresses: &[String]) -> Option<String> {
        let calls = addresses.iter().filter_map(|text| Some(parse_address(text)?.saturating_sub(1)));
        behind_allocator(calls.flat_map(|call| self.functions(call)).collect())
    }

    /// The functions at `address`, innermost first, each with its file and line.
    fn functions(&self, address: u64) -> Vec<String> {
        let mut functions = Vec::new();
        if let Ok(mut frames) = self.loader.find_frames(address) {
            while let Ok(Some(frame)) = frames.next() {
                let name = frame.function.as_ref().and_then(|name| Some(name.demangle().ok()?.into_owned()));
                let Some(name) = name else { continue };
                let place = frame.location.as_ref().and_then(place);
                functions.push(format!("{name} ({})", place.as_deref().unwrap_or("?")));
            }
        }
        // A program with line tables alone has places, and symbols in place of functions.
        if functions.is_empty()
            && let Some(name) = self.loader.find_symbol(address)
        {
            let name = addr2line::demangle_auto(name.into(), None);
            let location = self.loader.find_location(address).ok().flatten();
            functions.push(match location.as_ref().and_then(place) {
                Some(place) => format!("{name} ({place})"),
                None => name.into_owned(),
            });
        }
        functions
    }
}

/// File and line of a location.
fn place(location: &Location<'_>) -> Option<String> {
    Some(format!("{}:{}", workspace::shorten(location.file?), location.line?))
}

/// The first function behind the heap's in a backtrace that begins inside the heap, those of Rust's library left
/// out. Which functions of the heap are in it depends on what was inlined, and on calls that became jumps.
fn behind_allocator(functions: Vec<String>) -> Option<String> {
    let is_heap = |function: &String| {
        ["GlobalAlloc", "__rust", "topomem::heap::", "topomem_percpu::heap::"]
            .iter()
            .any(|part| function.contains(part))
    };
    let is_library = |function: &String| function.contains(" (library/");
    functions
        .into_iter()
        .skip_while(|function| !is_heap(function))
        .find(|function| !is_heap(function) && !is_library(function))
}

fn parse_address(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        assert_eq!(parse_address("0xffffffff80000000"), Some(0xffff_ffff_8000_0000));
        assert_eq!(parse_address("12"), None);
        assert_eq!(parse_address("0xzz"), None);
    }

    /// Where this program was loaded, as position-independent programs are.
    fn load_address() -> u64 {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let program = std::env::current_exe().unwrap();
        let line = maps.lines().find(|line| line.ends_with(program.to_str().unwrap())).unwrap();
        u64::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
    }

    #[test]
    fn names_functions_and_lines() {
        let symbols = Symbols::load(&std::env::current_exe().unwrap()).unwrap();
        let function = parse_address as fn(&str) -> Option<u64> as usize as u64 - load_address();
        let lines = symbols.backtrace(&[format!("{function:#x}")]);
        assert!(lines[0].contains("symbolize::parse_address (qemu/xtask/src/run/symbolize.rs:"), "{lines:?}");
    }

    #[test]
    fn finds_what_called_the_allocator() {
        let trace =
            |functions: &[&str]| functions.iter().map(|&function| function.to_owned()).collect::<Vec<_>>();
        let found = behind_allocator(trace(&[
            "kernel::callers::here (qemu/kernel/src/memory/callers.rs:30)",
            "topomem_percpu::heap::global::<impl topomem_percpu::heap::Heap<P,S>>::alloc_otherwise_or_null (percpu/src/heap/global.rs:108)",
            "<topomem::heap::KernelHeap<P> as core::alloc::global::GlobalAlloc>::alloc (src/heap/mod.rs:271)",
            "__rustc::__rust_alloc",
            "alloc::boxed::Box<T>::new (library/alloc/src/boxed.rs:259)",
            "kernel::leak (qemu/kernel/src/leak.rs:3)",
            "kernel::interrupt (qemu/kernel/src/leak.rs:9)",
            "topomem_percpu::heap::Heap<P,S>::dealloc (percpu/src/heap/mod.rs:9)",
            "kernel::run (qemu/kernel/src/leak.rs:9)",
        ]));
        assert_eq!(found.as_deref(), Some("kernel::leak (qemu/kernel/src/leak.rs:3)"));
        assert_eq!(behind_allocator(trace(&["kernel::leak (qemu/kernel/src/leak.rs:3)"])), None);
    }

    #[test]
    fn an_address_without_symbols_stays_an_address() {
        let symbols = Symbols::load(&std::env::current_exe().unwrap()).unwrap();
        let lines = symbols.backtrace(&["0xffffffffffff0000".to_owned(), "nonsense".to_owned()]);
        assert_eq!(lines, ["  0: 0xffffffffffff0000 ?", "  1: nonsense"]);
    }
}
