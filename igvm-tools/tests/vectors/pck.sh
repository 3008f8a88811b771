#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Makes the test chain of a TDX quote, P-256 throughout as Intel's own: p256/ with root and CA, and the certificate of pck.p8 as a
# quote brings it along. Keys are made anew each time: none of a root or a CA is kept. pck.p8 is public and signs nothing but tests.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p p256
cat >"$work/config" <<END
[ca]
default_ca = test
[test]
database = $work/index
new_certs_dir = $work
serial = $work/serial
policy = subject
unique_subject = no
default_md = sha256
preserve = yes
[subject]
organizationName = supplied
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[pck]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
END
for name in root ca pck; do
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$work/$name.key"
done
openssl pkcs8 -topk8 -nocrypt -in "$work/pck.key" -outform DER -out pck.p8
chmod 644 pck.p8

# issue SUBJECT KEY EXTENSIONS SERIAL [issuer's options]: valid from 2020 to 2119, whatever the clock says.
issue() {
    name=$1 key=$2 extensions=$3 serial=$4
    shift 4
    openssl req -new -key "$key" -subj "/O=Test/CN=$name" -out "$work/request"
    : >"$work/index"
    echo "$serial" >"$work/serial"
    openssl ca -batch -notext -config "$work/config" -extfile "$work/config" -extensions "$extensions" \
        -startdate 20200101000000Z -enddate 21191231235959Z -in "$work/request" "$@" 2>/dev/null
}

issue "Root Test" "$work/root.key" authority 01 -selfsign -keyfile "$work/root.key" -out p256/root.pem
issue "PCK CA Test" "$work/ca.key" authority 02 -cert p256/root.pem -keyfile "$work/root.key" -out p256/ca.pem
issue "PCK Test" "$work/pck.key" pck 03 -cert p256/ca.pem -keyfile "$work/ca.key" -out p256/pck.pem
