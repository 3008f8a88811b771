// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files go through loader and firmware together, and come to the digest that the `igvm` crate predicts.

use super::*;
use crate::image::Image;
use crate::loader::{self, GuestRam, Machine, OutsideRam, load_snp};
use crate::memory::{GuestMap, PageSet};
use igvm::{IgvmDirectiveHeader as Directive, IgvmFile, IgvmInitializationHeader, IgvmPlatformHeader, IgvmRevision};
use igvm_defs::{
    IGVM_VHS_PARAMETER, IGVM_VHS_PARAMETER_INSERT, IGVM_VHS_SUPPORTED_PLATFORM, IgvmPageDataFlags, IgvmPageDataType,
    IgvmPlatformType,
};
use snp_psp::{CpuidResult, Rule};
use std::cell::RefCell;
use std::rc::Rc;

const MEMORY: u64 = 4 << 20;
const POLICY: u64 = 0x3_0000;
const MASK: u32 = 1;

/// Memory that loader and firmware reach, as they do on the machine.
#[derive(Clone)]
struct Ram(Rc<RefCell<Vec<u8>>>);

impl GuestRam for Ram {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> Result<(), OutsideRam> {
        let at = gpa as usize;
        self.0.borrow_mut().get_mut(at..at + bytes.len()).ok_or(OutsideRam)?.copy_from_slice(bytes);
        Ok(())
    }

    fn zero(&mut self, gpa: u64, bytes: u64) -> Result<(), OutsideRam> {
        self.write(gpa, &vec![0; bytes as usize])
    }

    fn read(&self, gpa: u64) -> Result<u64, OutsideRam> {
        let ram = self.0.borrow();
        let bytes = ram.get(gpa as usize..gpa as usize + 8).ok_or(OutsideRam)?;
        Ok(u64::from_le_bytes(bytes.try_into().unwrap()))
    }
}

impl Ram {
    fn page(&self, gpa: u64) -> Page {
        self.0.borrow()[gpa as usize..gpa as usize + 4096].try_into().unwrap()
    }
}

fn processor(_: u32, _: u32) -> CpuidResult {
    CpuidResult::default()
}

/// A launch without an RMP.
struct Launcher {
    firmware: Firmware,
    ram: Ram,
    refused: Option<Refused>,
}

impl Launcher {
    fn keep(&mut self, result: Result<(), Refused>) -> Result<(), &'static str> {
        result.map_err(|refused| {
            self.refused = Some(refused);
            "refused"
        })
    }
}

impl loader::Launch for Launcher {
    fn policy(&mut self, policy: u64) -> Result<(), &'static str> {
        let mut entropy = |bytes: &mut [u8]| {
            bytes.fill(6);
            Ok(())
        };
        let started = self.firmware.start(policy, &mut entropy);
        self.keep(started)
    }

    fn id_block(&mut self, block: &IGVM_VHS_SNP_ID_BLOCK) -> Result<(), &'static str> {
        self.firmware.id_block(block);
        Ok(())
    }

    fn fill(&mut self, _: PageKind, _: &mut Page) {}

    fn page(&mut self, gpa: u64, bytes: u64, kind: PageKind) -> Result<(), &'static str> {
        for at in (gpa..gpa + bytes).step_by(4096) {
            let mut page = self.ram.page(at);
            let placed = self.firmware.place(kind, at, &mut page, &processor);
            self.keep(placed)?;
            self.ram.write(at, &page).unwrap();
        }
        Ok(())
    }

    fn context(&mut self, gpa: u64, _: u16, vmsa: &Page) -> Result<(), &'static str> {
        let placed = self.firmware.context(gpa, vmsa, &processor);
        self.keep(placed)
    }
}

fn page(gpa: u64, data_type: IgvmPageDataType, fill: u8) -> Directive {
    let data = if fill == 0 { vec![] } else { vec![fill; 4096] };
    Directive::PageData { gpa, compatibility_mask: MASK, flags: IgvmPageDataFlags::new(), data_type, data }
}

fn directives() -> Vec<Directive> {
    let mut vmsa = igvm::snp_defs::SevVmsa::new_box_zeroed().unwrap();
    vmsa.rip = 0x1234;
    let at = |byte_offset| IGVM_VHS_PARAMETER { parameter_area_index: 2, byte_offset };
    let insert = IGVM_VHS_PARAMETER_INSERT { gpa: 0x10_4000, compatibility_mask: MASK, parameter_area_index: 2 };
    vec![
        Directive::ParameterArea { number_of_bytes: 4096, parameter_area_index: 2, initial_data: vec![] },
        page(0x10_0000, IgvmPageDataType::NORMAL, 3),
        page(0x10_1000, IgvmPageDataType::NORMAL, 0),
        Directive::VpCount(at(0)),
        page(0x10_2000, IgvmPageDataType::SECRETS, 0),
        Directive::ParameterInsert(insert),
        page(0x10_3000, IgvmPageDataType::CPUID_DATA, 0),
        Directive::SnpVpContext { gpa: 0xffff_ffff_f000, compatibility_mask: MASK, vp_index: 0, vmsa },
    ]
}

fn platform() -> IgvmPlatformHeader {
    IgvmPlatformHeader::SupportedPlatform(IGVM_VHS_SUPPORTED_PLATFORM {
        compatibility_mask: MASK,
        highest_vtl: 0,
        platform_type: IgvmPlatformType::SEV_SNP,
        platform_version: 1,
        shared_gpa_boundary: 0,
    })
}

fn policy(policy: u64) -> Vec<IgvmInitializationHeader> {
    vec![IgvmInitializationHeader::GuestPolicy { policy, compatibility_mask: MASK }]
}

fn launch(initial: Vec<IgvmInitializationHeader>, directives: Vec<Directive>) -> (Launcher, bool) {
    let mut bytes = Vec::new();
    IgvmFile::new(IgvmRevision::V1, vec![platform()], initial, directives).unwrap().serialize(&mut bytes).unwrap();
    let image = Image::parse(&bytes).unwrap();
    let machine = Machine { map: GuestMap::new(MEMORY), processors: 4 };
    let mut bits = vec![0; PageSet::bytes(&machine.map) as usize];
    let mut placed = PageSet::new(machine.map, &mut bits);
    let mut ram = Ram(Rc::new(RefCell::new(vec![0xee; MEMORY as usize])));
    let mut launcher = Launcher { firmware: Firmware::default(), ram: ram.clone(), refused: None };
    let loaded = load_snp(&image, &machine, &mut ram, &mut placed, &mut launcher).is_ok();
    (launcher, loaded)
}

#[test]
fn a_file_comes_to_the_digest_that_the_igvm_crate_predicts() {
    let (mut launcher, loaded) = launch(policy(POLICY), directives());
    assert!(loaded && launcher.firmware.is_launching());
    let predicted = igvm::measurement::generate_snp_measurement(&policy(POLICY), &directives(), MASK).unwrap();
    assert_eq!(launcher.firmware.finish(), Ok(predicted));
    assert!(!launcher.firmware.is_launching());
    let secrets = launcher.ram.page(0x10_2000);
    assert_eq!((secrets[0], secrets[0x20], secrets[0xa0]), (3, 6, 0), "version, a key, the guest's own area");
    assert_eq!(launcher.ram.page(0x10_4000)[0], 4, "the parameter was there before the page was the guest's");
}

#[test]
fn what_the_firmware_refuses_ends_the_launch_with_its_rule() {
    let (launcher, loaded) = launch(policy(0x1_0000), directives());
    assert_eq!((loaded, launcher.refused.map(|r| r.rule)), (false, Some(Rule::PolicyMustBeOne)));
}

#[test]
fn an_id_block_is_held_against_the_launch() {
    use igvm_defs::IGVM_VHS_SNP_ID_BLOCK_SIGNATURE as FileSignature;
    let key = p384::ecdsa::SigningKey::from_slice(&[5; 48]).unwrap();
    let owner = PublicKey::of(&key).unwrap();
    let owner = zerocopy::IntoBytes::as_bytes(&owner);
    let mut public = IGVM_VHS_SNP_ID_BLOCK_PUBLIC_KEY::new_zeroed();
    public.curve = 2;
    public.qx.copy_from_slice(&owner[4..76]);
    public.qy.copy_from_slice(&owner[76..148]);
    let finish = |digest: [u8; 48], svn: u32| {
        let mut block = IdBlock::new_zeroed();
        (block.launch_digest, block.image_id) = (digest, [9; 16]);
        (block.version, block.guest_svn, block.policy) = (1.into(), 7.into(), POLICY.into());
        let signature = Signature::sign(&key, zerocopy::IntoBytes::as_bytes(&block)).unwrap();
        let signature = zerocopy::IntoBytes::as_bytes(&signature);
        let mut header = IGVM_VHS_SNP_ID_BLOCK::new_zeroed();
        (header.ld, header.image_id, header.version, header.guest_svn) = (digest, [9; 16], 1, svn);
        header.id_key_algorithm = 1;
        header.id_key_signature = FileSignature {
            r_comp: signature[..72].try_into().unwrap(),
            s_comp: signature[72..144].try_into().unwrap(),
        };
        header.id_public_key = public;
        let (mut launcher, _) = launch(policy(POLICY), directives());
        launcher.firmware.id_block(&header);
        launcher.firmware.finish().map(|_| ()).map_err(|refused| refused.rule)
    };
    let right = igvm::measurement::generate_snp_measurement(&policy(POLICY), &directives(), MASK).unwrap();
    assert_eq!(finish(right, 7), Ok(()));
    assert_eq!(finish(right, 8), Err(Rule::IdBlockSignature));
    assert_eq!(finish([1; 48], 7), Err(Rule::IdBlockDigest));
}

#[test]
fn only_a_launched_guest_is_answered() {
    let mut response = [0; 4096];
    assert_eq!(Firmware::default().request(&[0; 4096], &mut response), None);
    let (mut launcher, _) = launch(policy(POLICY), directives());
    assert_eq!(launcher.firmware.request(&[0; 4096], &mut response), None);
    launcher.firmware.finish().unwrap();
    let refused = launcher.firmware.request(&[0; 4096], &mut response).unwrap().unwrap_err();
    assert_eq!(refused.rule, Rule::MessageAlgorithm);
}

#[test]
fn the_certificates_fit_their_room() {
    let firmware = Firmware::default();
    let certificates = firmware.certificates();
    assert_eq!(certificates.len(), 4 * 24 + test_chain::ARK.len() + test_chain::ASK.len() + test_chain::VCEK.len());
}
