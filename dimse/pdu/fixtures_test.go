package pdu

import (
	"encoding/hex"
	"strings"
)

// fixture decodes bytes in hexadecimal; "#" begins a comment.
func fixture(text string) []byte {
	var digits strings.Builder
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		panic(err)
	}
	return b
}

// dcmtkEcho is what DCMTK 3.6.7 `echoscu -aet ECHOSCU -aec HILUM` sends,
// as captured.
var dcmtkEcho = fixture(
	`01 00 00 00 00 cd  # A-ASSOCIATE-RQ, 205 bytes
00 01 00 00  # protocol version, reserved
48 49 4c 55 4d 20 20 20 20 20 20 20 20 20 20 20  # called AE title: HILUM
45 43 48 4f 53 43 55 20 20 20 20 20 20 20 20 20  # calling AE title: ECHOSCU
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # reserved
10 00 00 15  # Application Context
  31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 33 2e 31 2e 31 2e 31  # 1.2.840.10008.3.1.1.1
20 00 00 2e 01 00 ff 00  # Presentation Context (RQ), id 1
  30 00 00 11  # Abstract Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 31  # 1.2.840.10008.1.1
  40 00 00 11  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32  # 1.2.840.10008.1.2
50 00 00 3a  # User Information
  51 00 00 04  # Maximum Length
    00 00 40 00  # 16384
  52 00 00 1b  # Implementation Class UID
    31 2e 32 2e 32 37 36 2e 30 2e 37 32 33 30 30 31 30 2e 33 2e 30 2e 33 2e 36 2e 37  # 1.2.276.0.7230010.3.0.3.6.7
  55 00 00 0f  # Implementation Version Name
    4f 46 46 49 53 5f 44 43 4d 54 4b 5f 33 36 37  # OFFIS_DCMTK_367`)

// dcmtkStore is what DCMTK 3.6.7 `storescu -R` sends for a CT image in
// Explicit VR Little Endian, as captured.
var dcmtkStore = fixture(
	`01 00 00 00 01 28  # A-ASSOCIATE-RQ, 296 bytes
00 01 00 00  # protocol version, reserved
41 4e 59 2d 53 43 50 20 20 20 20 20 20 20 20 20  # called AE title: ANY-SCP
53 54 4f 52 45 53 43 55 20 20 20 20 20 20 20 20  # calling AE title: STORESCU
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # reserved
10 00 00 15  # Application Context
  31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 33 2e 31 2e 31 2e 31  # 1.2.840.10008.3.1.1.1
20 00 00 38 01 00 ff 00  # Presentation Context (RQ), id 1
  30 00 00 19  # Abstract Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 32  # 1.2.840.10008.5.1.4.1.1.2
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31  # 1.2.840.10008.1.2.1
20 00 00 4d 03 00 ff 00  # Presentation Context (RQ), id 3
  30 00 00 19  # Abstract Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 32  # 1.2.840.10008.5.1.4.1.1.2
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 32  # 1.2.840.10008.1.2.2
  40 00 00 11  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32  # 1.2.840.10008.1.2
50 00 00 3a  # User Information
  51 00 00 04  # Maximum Length
    00 00 40 00  # 16384
  52 00 00 1b  # Implementation Class UID
    31 2e 32 2e 32 37 36 2e 30 2e 37 32 33 30 30 31 30 2e 33 2e 30 2e 33 2e 36 2e 37  # 1.2.276.0.7230010.3.0.3.6.7
  55 00 00 0f  # Implementation Version Name
    4f 46 46 49 53 5f 44 43 4d 54 4b 5f 33 36 37  # OFFIS_DCMTK_367`)

// pynetdicomAll is what pynetdicom 3.0.4 sends with every kind of extended
// negotiation, as captured.
var pynetdicomAll = fixture(
	`01 00 00 00 02 52  # A-ASSOCIATE-RQ, 594 bytes
00 01 00 00  # protocol version, reserved
48 49 4c 55 4d 20 20 20 20 20 20 20 20 20 20 20  # called AE title: HILUM
50 59 4e 45 54 44 49 43 4f 4d 20 20 20 20 20 20  # calling AE title: PYNETDICOM
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # reserved
10 00 00 15  # Application Context
  31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 33 2e 31 2e 31 2e 31  # 1.2.840.10008.3.1.1.1
20 00 00 76 01 00 00 00  # Presentation Context (RQ), id 1
  30 00 00 11  # Abstract Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 31  # 1.2.840.10008.1.1
  40 00 00 11  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32  # 1.2.840.10008.1.2
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31  # 1.2.840.10008.1.2.1
  40 00 00 16  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31 2e 39 39  # 1.2.840.10008.1.2.1.99
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 32  # 1.2.840.10008.1.2.2
20 00 00 7e 03 00 00 00  # Presentation Context (RQ), id 3
  30 00 00 19  # Abstract Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 32  # 1.2.840.10008.5.1.4.1.1.2
  40 00 00 11  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32  # 1.2.840.10008.1.2
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31  # 1.2.840.10008.1.2.1
  40 00 00 16  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31 2e 39 39  # 1.2.840.10008.1.2.1.99
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 32  # 1.2.840.10008.1.2.2
50 00 00 f5  # User Information
  51 00 00 04  # Maximum Length
    00 00 3f fe  # 16382
  52 00 00 20  # Implementation Class UID
    31 2e 32 2e 38 32 36 2e 30 2e 31 2e 33 36 38 30 30 34 33 2e 39 2e 33 38 31 31 2e 33 2e 30 2e 34  # 1.2.826.0.1.3680043.9.3811.3.0.4
  55 00 00 0e  # Implementation Version Name
    50 59 4e 45 54 44 49 43 4f 4d 5f 33 30 34  # PYNETDICOM_304
  54 00 00 1d  # SCP/SCU Role Selection
    00 19 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 32 01 01  # ..1.2.840.10008.5.1.4.1.1.2..
  53 00 00 04  # Asynchronous Operations Window
    00 05 00 05  # 5, 5
  58 00 00 0e  # User Identity
    02 01 00 04 75 73 65 72 00 04 70 61 73 73  # ....user..pass
  56 00 00 21  # SOP Class Extended
    00 19 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 32 02 00 03 00 01 00  # ..1.2.840.10008.5.1.4.1.1.2......
  57 00 00 53  # SOP Class Common Extended
    00 1d 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 38 38 2e 34 30 00 11 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 34 2e 32 00 1f 00 1d 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 35 2e 31 2e 34 2e 31 2e 31 2e 38 38 2e 32 32  # ..1.2.840.10008.5.1.4.1.1.88.40..1.2.840.10008.4.2....1.2.840.10008.5.1.4.1.1.88.22`)

// dcmtkAccept is an A-ASSOCIATE-AC in the manner of DCMTK storescp: one context
// accepted, one whose transfer syntaxes were not.
var dcmtkAccept = fixture(`
02 00 00 00 00 dd  # A-ASSOCIATE-AC, 221 bytes
00 01 00 00  # protocol version, reserved
48 49 4c 55 4d 20 20 20 20 20 20 20 20 20 20 20  # called AE title: HILUM
53 54 4f 52 45 53 43 55 20 20 20 20 20 20 20 20  # calling AE title: STORESCU
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00  # reserved
10 00 00 15  # Application Context
  31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 33 2e 31 2e 31 2e 31  # 1.2.840.10008.3.1.1.1
21 00 00 1b 01 00 00 00  # Presentation Context (AC), id 1, accepted
  40 00 00 13  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32 2e 31  # 1.2.840.10008.1.2.1
21 00 00 19 03 00 04 00  # Presentation Context (AC), id 3, transfer syntaxes not supported
  40 00 00 11  # Transfer Syntax
    31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 32  # 1.2.840.10008.1.2
50 00 00 40  # User Information
  51 00 00 04 00 00 40 00  # Maximum Length: 16384
  52 00 00 1b  # Implementation Class UID
    31 2e 32 2e 32 37 36 2e 30 2e 37 32 33 30 30 31 30 2e 33 2e 30 2e 33 2e 36 2e 37  # 1.2.276.0.7230010.3.0.3.6.7
  55 00 00 0f 4f 46 46 49 53 5f 44 43 4d 54 4b 5f 33 36 37  # Implementation Version Name: OFFIS_DCMTK_367
  59 00 00 02 00 00  # User Identity response, empty
`)

// echoData is a P-DATA-TF with the C-ECHO-RQ of DCMTK echoscu.
var echoData = fixture(`
04 00 00 00 00 4a  # P-DATA-TF, 74 bytes
00 00 00 46 01 03  # PDV of 70 bytes, context 1, command, last
  00 00 00 00 04 00 00 00 38 00 00 00  # (0000,0000) group length 56
  00 00 02 00 12 00 00 00 31 2e 32 2e 38 34 30 2e 31 30 30 30 38 2e 31 2e 31 00  # (0000,0002) Verification
  00 00 00 01 02 00 00 00 30 00  # (0000,0100) C-ECHO-RQ
  00 00 10 01 02 00 00 00 01 00  # (0000,0110) message 1
  00 00 00 08 02 00 00 00 01 01  # (0000,0800) no data set
`)

// manyPDVs is a P-DATA-TF with three PDVs, one of them empty.
var manyPDVs = fixture(`
04 00 00 00 00 18  # P-DATA-TF, 24 bytes
00 00 00 04 01 01 aa bb  # PDV of 4 bytes, context 1, command
00 00 00 02 01 03  # PDV of 2 bytes, context 1, command, last
00 00 00 06 01 02 01 02 03 04  # PDV of 6 bytes, context 1, data, last
`)

// The PDUs of four bytes.
var (
	rejectLimit    = fixture(`03 00 00 00 00 04 00 02 03 02 # A-ASSOCIATE-RJ: transient, presentation, local limit exceeded`)
	releaseRequest = fixture(`05 00 00 00 00 04 00 00 00 00 # A-RELEASE-RQ`)
	releaseReply   = fixture(`06 00 00 00 00 04 00 00 00 00 # A-RELEASE-RP`)
	abortPDU       = fixture(`07 00 00 00 00 04 00 00 02 06 # A-ABORT: provider, invalid PDU parameter value`)
)

var allFixtures = [][]byte{dcmtkEcho, dcmtkStore, pynetdicomAll, dcmtkAccept, echoData, manyPDVs, rejectLimit, releaseRequest, releaseReply, abortPDU}
