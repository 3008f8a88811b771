// SPDX-License-Identifier: MIT OR Apache-2.0
//! The part of AML that a namespace of fixed devices needs: scopes, devices, names, packages and resource templates.
//!
//! Follows ACPI 6.5, section 20.2 (encoding) and 6.4 (resource descriptors). Written straight into the table, instead of
//! by the `acpi_tables` crate: that one builds trees of vectors which abort when memory is short, and asserts on names.

use specs::acpi::{aml, resource};

use super::writer::Writer;

/// A name segment: four characters, the first a capital or an underscore.
pub(super) type Segment = [u8; 4];

/// A plug-and-play identity, `PNP` and four hexadecimal digits, as `EISAID()` packs it (19.3.4).
#[derive(Clone, Copy)]
pub(super) struct Pnp(pub(super) u16);

/// Runs `body`, then puts the length of what it wrote into a PkgLength before it (20.2.4).
///
/// The three-byte form is used whatever the length, so that it can be filled in afterwards: up to 1 MiB.
fn package_length(writer: &mut Writer<'_>, body: impl FnOnce(&mut Writer<'_>)) {
    let start = writer.mark();
    writer.bytes(&[0; 3]);
    body(writer);
    let length = writer.mark() - start;
    writer.patch(start, &[2 << 6 | (length & 0xF) as u8, (length >> 4) as u8, (length >> 12) as u8]);
}

/// `Scope (\name) { body }`
pub(super) fn root_scope(writer: &mut Writer<'_>, name: Segment, body: impl FnOnce(&mut Writer<'_>)) {
    writer.bytes(&[aml::SCOPE_OP]);
    package_length(writer, |writer| {
        writer.bytes(b"\\");
        writer.bytes(&name);
        body(writer);
    });
}

/// `Device (name) { body }`
pub(super) fn device(writer: &mut Writer<'_>, name: Segment, body: impl FnOnce(&mut Writer<'_>)) {
    writer.bytes(&aml::DEVICE_OP);
    package_length(writer, |writer| {
        writer.bytes(&name);
        body(writer);
    });
}

#[inline(never)]
fn name(writer: &mut Writer<'_>, name: Segment) {
    writer.bytes(&[aml::NAME_OP]);
    writer.bytes(&name);
}

/// An integer in its shortest form.
#[inline(never)]
fn integer(writer: &mut Writer<'_>, value: u32) {
    match value {
        0 => writer.bytes(&[aml::ZERO_OP]),
        1 => writer.bytes(&[aml::ONE_OP]),
        2..=0xFF => writer.bytes(&[aml::BYTE_PREFIX, value as u8]),
        0x100..=0xFFFF => {
            writer.bytes(&[aml::WORD_PREFIX]);
            writer.bytes(&(value as u16).to_le_bytes());
        }
        _ => {
            writer.bytes(&[aml::DWORD_PREFIX]);
            writer.bytes(&value.to_le_bytes());
        }
    }
}

/// `Name (name, value)`
#[inline(never)]
pub(super) fn name_integer(writer: &mut Writer<'_>, segment: Segment, value: u32) {
    name(writer, segment);
    integer(writer, value);
}

/// `Name (name, EisaId ("PNPxxxx"))`
#[inline(never)]
pub(super) fn name_pnp(writer: &mut Writer<'_>, segment: Segment, id: Pnp) {
    name(writer, segment);
    writer.bytes(&[aml::DWORD_PREFIX]);
    // 'P', 'N', 'P' as three five-bit letters, then the number; most significant byte first.
    writer.bytes(&[0x41, 0xD0]);
    writer.bytes(&id.0.to_be_bytes());
}

/// `Name (name, "text")`; `text` is ASCII without zeros.
pub(super) fn name_string(writer: &mut Writer<'_>, segment: Segment, text: &str) {
    name(writer, segment);
    writer.bytes(&[aml::STRING_PREFIX]);
    writer.bytes(text.as_bytes());
    writer.bytes(&[0]);
}

/// `Package { values }`
fn package(writer: &mut Writer<'_>, values: &[u32]) {
    writer.bytes(&[aml::PACKAGE_OP]);
    package_length(writer, |writer| {
        writer.bytes(&[values.len() as u8]);
        for value in values {
            integer(writer, *value);
        }
    });
}

/// `Name (name, Package { values })`
pub(super) fn name_package(writer: &mut Writer<'_>, segment: Segment, values: &[u32]) {
    name(writer, segment);
    package(writer, values);
}

/// `Name (name, Package { Package { row }, … })`
pub(super) fn name_table<const N: usize>(writer: &mut Writer<'_>, segment: Segment, rows: &[[u32; N]]) {
    name(writer, segment);
    writer.bytes(&[aml::PACKAGE_OP]);
    package_length(writer, |writer| {
        writer.bytes(&[rows.len() as u8]);
        for row in rows {
            package(writer, row);
        }
    });
}

/// `Name (name, ResourceTemplate () { body })`
pub(super) fn name_resources(writer: &mut Writer<'_>, segment: Segment, body: impl FnOnce(&mut Writer<'_>)) {
    name(writer, segment);
    writer.bytes(&[aml::BUFFER_OP]);
    package_length(writer, |writer| {
        writer.bytes(&[aml::WORD_PREFIX]);
        let size = writer.mark();
        writer.bytes(&[0; 2]);
        let start = writer.mark();
        body(writer);
        writer.bytes(&[resource::END, 0]);
        let length = writer.mark() - start;
        writer.patch(size, &(length as u16).to_le_bytes());
    });
}

/// `IO (Decode16, first, first, 1, count)`
#[inline(never)]
pub(super) fn ports(writer: &mut Writer<'_>, first: u16, count: u8) {
    writer.bytes(&[resource::IO_PORT, resource::DECODE_16]);
    writer.bytes(&first.to_le_bytes());
    writer.bytes(&first.to_le_bytes());
    writer.bytes(&[1, count]);
}

/// `IRQNoFlags () {line}`, an ISA interrupt.
#[inline(never)]
pub(super) fn irq(writer: &mut Writer<'_>, line: u8) {
    let mask = 1_u16.checked_shl(line.into()).unwrap_or(0);
    writer.bytes(&[resource::IRQ_NO_FLAGS]);
    writer.bytes(&mask.to_le_bytes());
}

/// `Memory32Fixed (ReadWrite, base, bytes)`
pub(super) fn fixed_memory(writer: &mut Writer<'_>, base: u32, bytes: u32) {
    writer.bytes(&[resource::MEMORY_32_FIXED, 9, 0, 1]);
    writer.bytes(&base.to_le_bytes());
    writer.bytes(&bytes.to_le_bytes());
}

/// A window that a bridge passes on, of a resource that 16 bits number: bus numbers or ports.
fn word_window(writer: &mut Writer<'_>, kind: u8, flags: u8, first: u16, last: u16) {
    writer.bytes(&[resource::WORD_SPACE, 13, 0, kind, resource::PRODUCED_FIXED, flags]);
    let length = (last - first).wrapping_add(1);
    for value in [0, first, last, 0, length] {
        writer.bytes(&value.to_le_bytes());
    }
}

/// `WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, …)`
pub(super) fn bus_window(writer: &mut Writer<'_>, first: u8, last: u8) {
    word_window(writer, resource::SPACE_BUS, 0, first.into(), last.into());
}

/// `WordIO (ResourceProducer, MinFixed, MaxFixed, PosDecode, EntireRange, …)`
pub(super) fn port_window(writer: &mut Writer<'_>, first: u16, last: u16) {
    word_window(writer, resource::SPACE_IO, resource::IO_ENTIRE_RANGE, first, last);
}

/// `DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite, …)`
pub(super) fn memory_window(writer: &mut Writer<'_>, first: u32, last: u32) {
    let flags = resource::MEMORY_READ_WRITE;
    writer.bytes(&[resource::DWORD_SPACE, 23, 0, resource::SPACE_MEMORY, resource::PRODUCED_FIXED, flags]);
    let length = (last - first).wrapping_add(1);
    for value in [0, first, last, 0, length] {
        writer.bytes(&value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(body: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = [0; 8192];
        let mut writer = Writer::new(&mut buffer, 0);
        body(&mut writer);
        let used = writer.finish().unwrap();
        buffer[..used].to_vec()
    }

    #[test]
    fn pnp_identity_packs_as_eisaid_does() {
        assert_eq!(encode(|w| name_pnp(w, *b"_HID", Pnp(0x0A08))), b"\x08_HID\x0C\x41\xD0\x0A\x08");
    }

    #[test]
    fn integers_take_their_shortest_form() {
        assert_eq!(encode(|w| name_integer(w, *b"_ADR", 0)), b"\x08_ADR\x00");
        assert_eq!(encode(|w| name_integer(w, *b"_ADR", 1)), b"\x08_ADR\x01");
        assert_eq!(encode(|w| name_integer(w, *b"_ADR", 0xFF)), b"\x08_ADR\x0A\xFF");
        assert_eq!(encode(|w| name_integer(w, *b"_ADR", 0x100)), b"\x08_ADR\x0B\x00\x01");
        assert_eq!(encode(|w| name_integer(w, *b"_ADR", 0x1F_0000)), b"\x08_ADR\x0C\x00\x00\x1F\x00");
    }

    #[test]
    fn package_length_covers_itself_and_everything_after() {
        assert_eq!(encode(|w| device(w, *b"DEV0", |_| {})), b"\x5B\x82\x87\x00\x00DEV0");
        let long = encode(|w| root_scope(w, *b"_SB_", |w| (0..1000).for_each(|_| w.bytes(&[0xA3]))));
        // 3 + 5 + 1000 = 3F0h.
        assert_eq!(&long[..4], b"\x10\x80\x3F\x00");
        assert_eq!(long.len(), 1 + 0x3F0);
    }

    #[test]
    fn resource_template_states_its_size_and_ends() {
        let bytes = encode(|w| name_resources(w, *b"_CRS", |w| irq(w, 4)));
        assert_eq!(bytes, b"\x08_CRS\x11\x8B\x00\x00\x0B\x05\x00\x22\x10\x00\x79\x00");
    }

    #[test]
    fn port_descriptor_gives_a_fixed_range() {
        assert_eq!(encode(|w| ports(w, 0x3F8, 8)), [0x47, 1, 0xF8, 3, 0xF8, 3, 1, 8]);
    }
}
