// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims about the 8259A pair.

use super::Pic;

/// Linux's `init_8259A`: vectors 30h and 38h, then everything unmasked.
fn ready() -> Pic {
    with_icw4(0x01, 0x01)
}

fn with_icw4(primary: u8, secondary: u8) -> Pic {
    let mut pic = Pic::default();
    for (port, value) in [(0x20, 0x11), (0x21, 0x30), (0x21, 0x04), (0x21, primary)] {
        pic.write(port, value);
    }
    for (port, value) in [(0xa0, 0x11), (0xa1, 0x38), (0xa1, 0x02), (0xa1, secondary)] {
        pic.write(port, value);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, false);
    pic.set_line(irq, true);
}

fn irr(pic: &mut Pic, command: u16) -> u8 {
    pic.write(command, 0x0a);
    pic.read(command)
}

fn isr(pic: &mut Pic, command: u16) -> u8 {
    pic.write(command, 0x0b);
    pic.read(command)
}

#[test]
fn linux_probe_finds_the_primary_mask_register() {
    let mut pic = Pic::default();
    pic.write(0xa1, 0xff);
    pic.write(0x21, 0xfb);
    assert_eq!(pic.read(0x21), 0xfb);
    assert_eq!(pic.read(0xa1), 0xff);
}

#[test]
fn nothing_interrupts_before_the_guest_unmasks() {
    let mut pic = Pic::default();
    for irq in 0..16 {
        pulse(&mut pic, irq);
    }
    assert!(!pic.output());
    pic.write(0x21, 0xfe);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x08);
}

#[test]
fn initialization_clears_mask_service_and_edges() {
    let mut pic = ready();
    pulse(&mut pic, 3);
    pic.acknowledge();
    pic.write(0x21, 0x55);
    pulse(&mut pic, 1);
    pic.write(0x20, 0x11);
    pic.write(0x21, 0x40);
    assert!(!pic.output(), "no interrupt in the middle of the sequence");
    pic.write(0x21, 0x04);
    pic.write(0x21, 0x01);
    assert_eq!(pic.read(0x21), 0);
    assert_eq!(irr(&mut pic, 0x20), 0, "a line that was up needs a new edge");
    assert_eq!(isr(&mut pic, 0x20), 0);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x41);
}

#[test]
fn a_single_chip_without_icw4_expects_only_icw2() {
    let mut pic = Pic::default();
    pic.write(0x20, 0x12);
    pic.write(0x21, 0x50);
    pic.write(0x21, 0xfe);
    assert_eq!(pic.read(0x21), 0xfe);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x50);
}

#[test]
fn the_lowest_number_goes_first_and_blocks_the_rest() {
    let mut pic = ready();
    for irq in [7, 4, 1] {
        pulse(&mut pic, irq);
    }
    assert_eq!(irr(&mut pic, 0x20), 0b1001_0010);
    assert_eq!(pic.acknowledge(), 0x31);
    assert_eq!(isr(&mut pic, 0x20), 0b0000_0010);
    assert!(!pic.output());
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x30, "a higher one nests");
    pic.write(0x20, 0x20);
    assert_eq!(isr(&mut pic, 0x20), 0b0000_0010, "non-specific EOI ends the highest");
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.write(0x20, 0x64);
    assert_eq!(pic.acknowledge(), 0x37, "specific EOI ended IRQ 4");
}

#[test]
fn an_edge_counts_once_and_a_level_until_it_falls() {
    let mut pic = ready();
    pic.write(0x4d0, 0x20);
    pulse(&mut pic, 4);
    pic.set_line(4, true);
    assert_eq!(pic.acknowledge(), 0x34);
    pic.write(0x20, 0x20);
    assert!(!pic.output());
    pic.set_line(5, true);
    for _ in 0..3 {
        assert_eq!(pic.acknowledge(), 0x35);
        assert!(!pic.output());
        pic.write(0x20, 0x20);
        assert!(pic.output());
    }
    pic.set_line(5, false);
    assert!(!pic.output());
}

#[test]
fn masking_holds_a_request_back_without_losing_it() {
    let mut pic = ready();
    pic.write(0x21, 0x08);
    pulse(&mut pic, 3);
    assert!(!pic.output());
    assert_eq!(irr(&mut pic, 0x20), 0x08);
    pic.write(0x21, 0);
    assert_eq!(pic.acknowledge(), 0x33);
}

#[test]
fn a_request_that_goes_away_is_answered_as_irq_7() {
    let mut pic = ready();
    pulse(&mut pic, 3);
    assert!(pic.output());
    pic.set_line(3, false);
    assert!(!pic.output());
    assert_eq!(pic.acknowledge(), 0x37);
    assert_eq!(isr(&mut pic, 0x20), 0, "nothing is in service");
}

#[test]
fn a_secondary_request_that_goes_away_mid_cycle_is_irq_15() {
    let mut pic = ready();
    pulse(&mut pic, 11);
    // The secondary is masked between its INT and the cycle, the primary has a latched request of its own.
    pic.primary.set_line(2, false);
    pic.primary.set_line(2, true);
    pic.secondary.set_line(3, false);
    assert_eq!(pic.acknowledge(), 0x3f);
    assert_eq!(isr(&mut pic, 0xa0), 0);
    assert_eq!(isr(&mut pic, 0x20), 0x04, "the primary did serve its cascade input");
}

#[test]
fn the_cascade_needs_an_eoi_on_both_chips() {
    let mut pic = ready();
    pulse(&mut pic, 12);
    pulse(&mut pic, 14);
    assert_eq!(irr(&mut pic, 0x20), 0x04);
    assert_eq!(pic.acknowledge(), 0x3c);
    assert_eq!((isr(&mut pic, 0x20), isr(&mut pic, 0xa0)), (0x04, 0x10));
    pic.write(0xa0, 0x64);
    assert!(!pic.output(), "the primary still serves its cascade input");
    pic.write(0x20, 0x62);
    assert_eq!(pic.acknowledge(), 0x3e);
}

#[test]
fn irq_8_to_15_rank_between_1_and_3() {
    let mut pic = ready();
    for irq in [3, 15, 1] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), 0x31);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x3f);
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x33);
}

#[test]
fn special_fully_nested_mode_lets_the_secondary_nest_but_nothing_lower() {
    let mut pic = with_icw4(0x11, 0x01);
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x3c);
    pulse(&mut pic, 3);
    assert!(!pic.output());
    pulse(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x39);

    let mut plain = ready();
    pulse(&mut plain, 12);
    plain.acknowledge();
    pulse(&mut plain, 9);
    assert!(!plain.output());
}

#[test]
fn automatic_eoi_leaves_nothing_in_service() {
    let mut pic = with_icw4(0x03, 0x03);
    pulse(&mut pic, 8);
    pulse(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x38);
    assert_eq!((isr(&mut pic, 0x20), isr(&mut pic, 0xa0)), (0, 0));
    assert_eq!(pic.acknowledge(), 0x39);
    assert!(!pic.output());
}

#[test]
fn rotation_makes_the_served_input_the_lowest() {
    let mut pic = ready();
    for irq in [0, 1, 3] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), 0x30);
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 0);
    assert_eq!(pic.acknowledge(), 0x31);
    pic.write(0x20, 0xe1);
    assert_eq!(pic.acknowledge(), 0x33);
    pic.write(0x20, 0x63);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn rotation_without_a_served_input_changes_nothing() {
    let mut pic = ready();
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 0);
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x30);
}

#[test]
fn set_priority_names_the_lowest_input() {
    let mut pic = ready();
    pic.write(0x20, 0xc4);
    for irq in [0, 4, 5] {
        pulse(&mut pic, irq);
    }
    assert_eq!(pic.acknowledge(), 0x35);
    pulse(&mut pic, 6);
    assert!(!pic.output());
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x36);
}

#[test]
fn rotate_in_automatic_eoi_mode_is_switched_by_ocw2() {
    let mut pic = with_icw4(0x03, 0x01);
    pic.write(0x20, 0x80);
    for _ in 0..2 {
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert_eq!(pic.acknowledge(), 0x34);
        pulse(&mut pic, 4);
        assert_eq!(pic.acknowledge(), 0x35);
        assert_eq!(pic.acknowledge(), 0x34);
        pulse(&mut pic, 3);
        assert_eq!(pic.acknowledge(), 0x33);
    }
    pic.write(0x20, 0x00);
    pic.write(0x20, 0xc7);
    for _ in 0..2 {
        pulse(&mut pic, 4);
        pulse(&mut pic, 5);
        assert_eq!([pic.acknowledge(), pic.acknowledge()], [0x34, 0x35]);
    }
}

#[test]
fn special_mask_mode_opens_lower_levels_and_spares_them_from_eoi() {
    let mut pic = ready();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(!pic.output());
    pic.write(0x21, 0x02);
    assert!(!pic.output());
    pic.write(0x20, 0x68);
    assert_eq!(pic.acknowledge(), 0x36);
    pic.write(0x20, 0x20);
    assert_eq!(isr(&mut pic, 0x20), 0x02, "a masked level needs a specific EOI");
    pic.write(0x20, 0x48);
    pulse(&mut pic, 6);
    assert!(!pic.output(), "off again");
}

#[test]
fn a_poll_acknowledges_one_request() {
    let mut pic = ready();
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0);
    pulse(&mut pic, 5);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x85);
    assert!(!pic.output());
    assert_eq!(isr(&mut pic, 0x20), 0x20);
    pulse(&mut pic, 10);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x21), 0x82, "any read answers a poll");
    pic.write(0xa0, 0x0c);
    assert_eq!(pic.read(0xa0), 0x82);
    assert_eq!(pic.read(0x21), 0, "and only one");
}

#[test]
fn edge_level_control_spares_the_system_lines() {
    let mut pic = ready();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn a_wrong_icw3_leaves_the_bus_undriven_or_makes_the_cascade_plain() {
    let mut pic = ready();
    for value in [0x11, 0x38, 0x05, 0x01] {
        pic.write(if value == 0x11 { 0xa0 } else { 0xa1 }, value);
    }
    pulse(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0xff);

    let mut pic = ready();
    for value in [0x11, 0x30, 0x00, 0x01] {
        pic.write(if value == 0x11 { 0x20 } else { 0x21 }, value);
    }
    pulse(&mut pic, 9);
    assert_eq!(pic.acknowledge(), 0x32);
}

#[test]
fn wires_that_do_not_exist_are_ignored() {
    let mut pic = ready();
    for irq in [2, 16, 23, 255] {
        pulse(&mut pic, irq);
    }
    assert!(!pic.output());
    assert_eq!(pic.read(0x22), 0xff);
}

#[test]
fn no_sequence_of_accesses_breaks_it() {
    let mut pic = Pic::default();
    let mut state = 5_u32;
    for _ in 0..200_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let [which, value, what, _] = state.to_be_bytes();
        let port = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1][usize::from(which % 6)];
        match what % 4 {
            0 => pic.set_line(value % 16, value & 16 != 0),
            1 => drop(pic.acknowledge()),
            2 => drop(pic.read(port)),
            _ => pic.write(port, value),
        }
    }
}
