//! A heap over a plain source of pages on the host, and the ways into it.
//!
//! `cargo run -p topomem-percpu --example heap`

mod host;

use std::alloc::Layout;
use std::collections::hash_map::RandomState;
use std::error::Error;

use hashbrown::HashMap;
use host::Host;
use topomem_percpu::{Arena, Heap, NodeId, Platform, Pool};

/// In a kernel also `#[global_allocator]`.
static HEAP: Heap<Host, Host> = Heap::new(Host, Host);

fn main() -> Result<(), Box<dyn Error>> {
    // Every CPU does this once, and has its magazines from then on.
    HEAP.cpu_online(&Host.pin())?;
    bare_memory()?;
    containers()?;
    on_a_node()?;
    boxes()?;
    pools()?;
    arenas()?;
    Ok(())
}

/// Memory for a layout.
fn bare_memory() -> Result<(), Box<dyn Error>> {
    let layout = Layout::new::<[u64; 8]>();
    let memory = HEAP.try_alloc(layout)?;
    // SAFETY: allocated with this layout, and not used any more.
    unsafe { HEAP.free(memory, layout)? };
    println!("64 bytes at {memory:p}, freed again");
    Ok(())
}

/// Containers of `allocator_api2`, and whatever takes its trait.
fn containers() -> Result<(), Box<dyn Error>> {
    let mut words = allocator_api2::vec::Vec::new_in(&HEAP);
    words.try_reserve(3)?;
    words.extend(["frames", "heap", "pages"]);
    let mut lengths = HashMap::with_hasher_in(RandomState::new(), &HEAP);
    lengths.try_reserve(words.len()).map_err(|error| format!("{error:?}"))?;
    lengths.extend(words.iter().map(|word| (*word, word.len())));
    println!("{} words in a map: heap has {} letters", lengths.len(), lengths["heap"]);
    Ok(())
}

/// The same on a chosen node.
fn on_a_node() -> Result<(), Box<dyn Error>> {
    let node = NodeId::new(1).ok_or("no number of a node")?;
    let remote = HEAP.on(node)?;
    let boxed = allocator_api2::boxed::Box::try_new_in([0_u8; 100], remote)?;
    println!("{} bytes on {}", boxed.len(), remote.node());
    Ok(())
}

/// Boxes that need no global allocator, and never panic for want of memory.
fn boxes() -> Result<(), Box<dyn Error>> {
    let answer = HEAP.try_box(42)?;
    let squares = HEAP.try_slice(5, |index| index * index)?;
    // SAFETY: zeroes are numbers.
    let table = unsafe { HEAP.try_box_zeroed::<[u64; 512]>()?.assume_init() };
    println!("{answer}, {squares:?}, {} zeroes", table.iter().filter(|entry| **entry == 0).count());
    Ok(())
}

/// Objects of one type, some of them held back for contexts in which an allocation must not fail.
fn pools() -> Result<(), Box<dyn Error>> {
    static REQUESTS: Pool<[u64; 4], Host, Host> = Pool::new(&HEAP);
    REQUESTS.reserve(8)?;
    let request = REQUESTS.alloc([1, 2, 3, 4])?;
    println!("request {request:?}, {} more are certain", REQUESTS.in_reserve());
    Ok(())
}

/// Memory that is taken back as a whole.
fn arenas() -> Result<(), Box<dyn Error>> {
    let mut arena = Arena::new(&HEAP);
    for line in ["root=/dev/vda", "quiet"] {
        let copy = arena.alloc_bytes(line.as_bytes())?;
        copy.make_ascii_uppercase();
        println!("{} in {} bytes", String::from_utf8_lossy(copy), arena.held_bytes());
        arena.reset();
    }
    Ok(())
}
