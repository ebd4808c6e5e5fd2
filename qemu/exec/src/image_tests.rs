use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { start: 0x1000, end: 0x7fff_ffff_f000 };

/// A program header to be: type, flags, offset, address, bytes in the file, bytes in memory.
type Header = (u32, u32, u64, u64, u64, u64);

const TEXT: Header = (PT_LOAD, PF_R | PF_X, 0, 0x40_0000, 0x1000, 0x1000);
const DATA: Header = (PT_LOAD, PF_R | PF_W, 0x1234, 0x40_1234, 0x100, 0x3000);

fn file(kind: u16, machine: u16, entry: u64, headers: &[Header]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(kind.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    for half in [64, 56, headers.len() as u16, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for &(kind, flags, offset, address, in_file, in_memory) in headers {
        bytes.extend(kind.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        for word in [offset, address, address, in_file, in_memory, PAGE] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(0x2000, 0xcc);
    bytes
}

fn program(headers: &[Header]) -> Vec<u8> {
    file(ET_EXEC, EM_X86_64, 0x40_0800, headers)
}

#[test]
fn a_plain_program() {
    let file = program(&[TEXT, DATA, (PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0)]);
    let image = Image::read(&file, BOUNDS).unwrap();
    assert_eq!((image.entry, image.placement), (0x40_0800, Placement::Fixed));
    assert!(!image.wants_executable_stack);
    assert_eq!(image.span(), (0x40_0000, 0x40_5000));
    let headers = ProgramHeaders { address: Some(0x40_0040), bytes: 56, count: 3 };
    assert_eq!(image.headers, headers);
    let [text, data] = image.segments[..] else { panic!() };
    assert_eq!((text.start, text.end, text.access), (0x40_0000, 0x40_1000, Access::Execute));
    assert_eq!((data.start, data.end, data.access), (0x40_1000, 0x40_5000, Access::Write));
    assert_eq!((data.address, data.content), (0x40_1234, &file[0x1234..0x1334]));
}

#[test]
fn a_program_that_lies_anywhere() {
    let (text, data) =
        ((TEXT.0, TEXT.1, 0, 0, 0x1000, 0x1000), (DATA.0, DATA.1, DATA.2, 0x1234, DATA.4, DATA.5));
    let file = file(ET_DYN, EM_X86_64, 0x800, &[text, data]);
    let image = Image::read(&file, BOUNDS).unwrap();
    assert_eq!((image.placement, image.span()), (Placement::Anywhere, (0, 0x5000)));
}

#[test]
fn what_is_wrong_is_said() {
    let error = |headers: &[Header]| Image::read(&program(headers), BOUNDS).unwrap_err();
    assert_eq!(error(&[]), ImageError::NoSegments);
    assert_eq!(error(&[TEXT, (PT_INTERP, PF_R, 0, 0, 0, 0)]), ImageError::Interpreter);
    let text = |offset, address, in_file, in_memory| (TEXT.0, TEXT.1, offset, address, in_file, in_memory);
    assert_eq!(error(&[text(0, 0x40_0000, 0x1001, 0x1000)]), ImageError::Content(0x40_0000));
    assert_eq!(error(&[text(0x1000, 0x40_0000, 0x1001, 0x2000)]), ImageError::Content(0x40_0000));
    assert_eq!(error(&[text(u64::MAX - 0xfff, 0x40_0000, 0x2000, 0x2000)]), ImageError::Content(0x40_0000));
    assert_eq!(error(&[text(1, 0x40_0000, 0x100, 0x100)]), ImageError::Misaligned(0x40_0000));
    assert_eq!(error(&[text(0, 0, 0x100, 0x100)]), ImageError::OutOfBounds(0));
    for at in [BOUNDS.end, 1 << 63, u64::MAX - 0xfff] {
        assert_eq!(error(&[text(0, at, 0x100, 0x100)]), ImageError::OutOfBounds(at), "{at:#x}");
    }
    assert_eq!(error(&[text(0, 0x40_0000, 0x100, u64::MAX)]), ImageError::OutOfBounds(0x40_0000));
    assert_eq!(error(&[TEXT, TEXT]), ImageError::Overlap(0x40_0000));
    let inside = (DATA.0, DATA.1, 0x234, 0x40_0234, 0x100, 0x100);
    assert_eq!(error(&[TEXT, inside]), ImageError::Overlap(0x40_0234));
    assert_eq!(error(&[DATA]), ImageError::Entry(0x40_0800));
    let many: Vec<Header> =
        (0..17).map(|number| text(0, 0x40_0000 + number * 0x1000, 0x100, 0x100)).collect();
    assert_eq!(error(&many), ImageError::TooManySegments);

    let read = |file: &[u8]| Image::read(file, BOUNDS).unwrap_err();
    assert_eq!(read(b""), ImageError::Malformed);
    assert_eq!(read(&program(&[TEXT])[..70]), ImageError::Malformed);
    assert_eq!(read(&file(ET_EXEC, 183, 0x40_0800, &[TEXT])), ImageError::Machine(183));
    assert_eq!(read(&file(1, EM_X86_64, 0x40_0800, &[TEXT])), ImageError::Kind(1));
}

/// What the loader relies on.
fn check(image: &Image<'_>) {
    let bounds = match image.placement {
        Placement::Fixed => BOUNDS,
        Placement::Anywhere => Bounds { start: 0, end: BOUNDS.end - BOUNDS.start },
    };
    let mut before = bounds.start;
    for segment in &image.segments {
        assert!(before <= segment.start && segment.start < segment.end && segment.end <= bounds.end);
        assert!(segment.start <= segment.address && segment.start % PAGE == 0 && segment.end % PAGE == 0);
        assert!(segment.address + segment.content.len() as u64 <= segment.end);
        before = segment.end;
    }
}

proptest! {
    #[test]
    fn arbitrary_headers_do_no_harm(
        kind in prop::sample::select(vec![ET_EXEC, ET_DYN]),
        entry: u64,
        headers in prop::collection::vec(
            (prop::sample::select(vec![PT_LOAD, PT_PHDR, PT_GNU_STACK]), 0u32..8, prop_oneof![0u64..0x3000, any::<u64>()],
             prop_oneof![0u64..0x10_0000, any::<u64>()], prop_oneof![0u64..0x2000, any::<u64>()],
             prop_oneof![0u64..0x4000, any::<u64>()]),
            0..20,
        ),
    ) {
        if let Ok(image) = Image::read(&file(kind, EM_X86_64, entry, &headers), BOUNDS) {
            check(&image);
        }
    }

    #[test]
    fn a_changed_program_does_no_harm(changes in prop::collection::vec((0usize..200, any::<u8>()), 1..4), end in 0usize..0x2001) {
        let mut file = program(&[TEXT, DATA]);
        for (at, to) in changes {
            file[at] = to;
        }
        if let Ok(image) = Image::read(&file[..end], BOUNDS) {
            check(&image);
        }
    }
}
