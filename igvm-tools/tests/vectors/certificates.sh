#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
#
# Makes the test chains: rsa/ as AMD's own (RSA-4096, PSS with SHA-384, salt of 48 bytes), p384/ as a model's. Both end at a
# VCEK with the key vcek.p8, with AMD's extensions. Keys are made anew each time: no key of a root or an ASK is kept.
# vcek.p8 is public and signs nothing but tests.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p rsa p384
# Boot loader 3, TEE 0, SNP 8, microcode 115; chip ID 00 01 02 … 3f.
id=$(printf '%02x:' $(seq 0 63))
cat >"$work/config" <<END
[ca]
default_ca = test
[test]
database = $work/index
new_certs_dir = $work
serial = $work/serial
policy = subject
unique_subject = no
default_md = sha384
preserve = yes
[subject]
organizationName = supplied
commonName = supplied
[authority]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign
[vcek]
1.3.6.1.4.1.3704.1.3.1 = DER:02:01:03
1.3.6.1.4.1.3704.1.3.2 = DER:02:01:00
1.3.6.1.4.1.3704.1.3.3 = DER:02:01:08
1.3.6.1.4.1.3704.1.3.8 = DER:02:01:73
1.3.6.1.4.1.3704.1.4 = DER:${id%:}
END
pss='-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:48 -sigopt rsa_mgf1_md:sha384'
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$work/vcek.key"
openssl pkcs8 -topk8 -nocrypt -in "$work/vcek.key" -outform DER -out vcek.p8
chmod 644 vcek.p8

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

for dir in rsa p384; do
    for name in ark ask; do
        if [ $dir = rsa ]; then
            openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out "$work/$name.key" 2>/dev/null
        else
            openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out "$work/$name.key"
        fi
    done
    [ $dir = rsa ] || pss=''
    issue ARK-Test "$work/ark.key" authority 01 -selfsign -keyfile "$work/ark.key" $pss -out $dir/ark.pem
    issue SEV-Test "$work/ask.key" authority 02 -cert $dir/ark.pem -keyfile "$work/ark.key" $pss -out $dir/ask.pem
    issue SEV-VCEK "$work/vcek.key" vcek 03 -cert $dir/ask.pem -keyfile "$work/ask.key" $pss -out "$work/vcek.pem"
    openssl x509 -in "$work/vcek.pem" -outform DER -out $dir/vcek.der
done
