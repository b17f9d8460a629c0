package probe

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"

	"cardkms/derive"
)

// standard is one known answer; the meaning of in and out depends on alg.
type standard struct {
	ID  string          `json:"id"`
	Alg string          `json:"alg"`
	In  json.RawMessage `json:"in"`
	Out json.RawMessage `json:"out"`
}

// algorithms says who runs what. The rest is skipped by name.
var algorithms = map[string]func(*bench, input) error{
	"scp03_session":      runSession,
	"scp03_keys":         runSessionKeys,
	"scp03_keys_ctx":     runSessionKeys,
	"scp03_wrap_rawkeys": runRawKeys,
	"scp03_putkey":       runKeyBlocks,
	"div_tdes":           runDivTDES,
	"div_kdf3":           runDivKDF3,
	"an10922":            runAN10922,
	"sp800_108":          runCounterKDF,
	"cmac_aes":           runCMAC,
	"kcv_gp_aes":         runKCV,
	"kcv_gp_des":         runKCV,
	"kcv_cmac_aes":       runKCVCMAC,
	"xor_ceremony":       runXOR,
	"crc32":              runCRC32,
	"cup1_package":       runPackage,
	"scp02_session":      runLegacySession,
	"scp02_cardside":     runLegacySession,
	"scp02_keys":         runLegacyKeys,
	"scp02_dek_enc":      runLegacyDEK,
	"scp02_wrap_rawkeys": runLegacyRawKeys,
	"scp02_wrap_keycard": runLegacyKeycard,
	"scp02_cardcrypt":    runLegacyCard,
	"scp02_challenge":    runLegacyChallenge,
	"retail_mac":         runRetailMAC,
	"crc16_x25":          runCRC16,
	"scp80_cmd":          runSecuredCommand,
	"scp80_por":          runProofOfReceipt,
}

func runStandards(ctx context.Context, t derive.VectorToken, vectors []standard) []Result {
	var out []Result
	for _, v := range vectors {
		out = append(out, Judge(v.ID, v.run(ctx, t)))
		for _, more := range v.more() {
			part := v
			part.Alg += more
			out = append(out, Judge(v.ID+more, part.run(ctx, t)))
		}
	}
	return out
}

// more returns the further verdicts that a vector gives.
func (v standard) more() []string {
	switch {
	case v.Alg != "emv_cvn":
		return nil
	case strings.HasPrefix(v.ID, "emv-visa-"):
		return []string{"/script", "/current-pin"}
	}
	return []string{"/script"}
}

func (v standard) run(ctx context.Context, t derive.VectorToken) error {
	b := &bench{ctx: ctx, token: t}
	defer b.close()
	if f := emvAlgorithms[v.Alg]; f != nil {
		return f(b, v)
	}
	if v.Alg == "scp11_kdf" {
		return runAgreement(b, v)
	}
	f := algorithms[v.Alg]
	if f == nil {
		return unservedReason(v.Alg)
	}
	var in input
	if err := json.Unmarshal(v.In, &in); err != nil {
		return fmt.Errorf("reading the vector: %w", err)
	}
	if err := json.Unmarshal(v.Out, &in.Out); err != nil {
		return fmt.Errorf("reading the vector: %w", err)
	}
	in.des = v.Alg == "kcv_gp_des" || in.Type == "des"
	return f(b, in)
}

// input is the union of what the algorithms read.
type input struct {
	gpKeys
	Key        octets    `json:"key"`
	Host       octets    `json:"host"`
	Card       octets    `json:"card"`
	Ctx        octets    `json:"ctx"`
	InitCmd    octets    `json:"init_cmd"`
	InitRsp    octets    `json:"init_rsp"`
	Level      level     `json:"level"`
	AID        octets    `json:"aid"`
	Plain      octetList `json:"plain"`
	Rsp        []octets  `json:"rsp"`
	SENC       octets    `json:"senc"`
	SMAC       octets    `json:"smac"`
	SRMAC      octets    `json:"srmac"`
	Method     string    `json:"method"`
	Kind       string    `json:"kind"`
	MK         octets    `json:"mk"`
	KDD        octets    `json:"kdd"`
	Div        octets    `json:"div"`
	Fixed      octets    `json:"fixed"`
	Len        int       `json:"len"`
	Data       octets    `json:"data"`
	Type       string    `json:"type"`
	Components []octets  `json:"components"`
	KUPD       octets    `json:"k_upd"`
	ImageLen   int       `json:"image_len"`
	ChunkSize  int       `json:"chunk_size"`
	I          octets    `json:"i"`
	Seq        octets    `json:"seq"`
	CMAC       octets    `json:"cmac"`
	HostCrypt  octets    `json:"host_crypt"`
	Pad        int       `json:"pad"`
	InWrapped  []octets  `json:"wrapped"`
	securedPacket
	des bool

	Out output `json:"-"`
}

type output struct {
	ExtAuth  octets          `json:"ext_auth"`
	Wrapped  octetList       `json:"wrapped"`
	RspPlain []octets        `json:"rsp_plain"`
	SENC     octets          `json:"senc"`
	SMAC     octets          `json:"smac"`
	SRMAC    octets          `json:"srmac"`
	KCV      json.RawMessage `json:"kcv"` // a string, a list or an object
	KCVCMAC  octets          `json:"kcv_cmac"`
	PartKCV  []string        `json:"component_kcv"`
	Keys     []octets        `json:"keys"`
	ENC      octets          `json:"enc"`
	MACKey   octets          `json:"mac"` // a MAC, or K-MAC
	DEK      octets          `json:"dek"`
	Key      octets          `json:"key"`
	Masked   octets          `json:"key_masked"`
	KO       octets          `json:"ko"`
	CRC      octets          `json:"crc"`
	CRC32    octets          `json:"crc32"`
	SHA256   octets          `json:"sha256"`
	WithLen  octets          `json:"block_with_len"`
	NoLen    octets          `json:"block_no_len"`
	KEnc     octets          `json:"k_enc"`
	KMac     octets          `json:"k_mac"`
	Manifest octets          `json:"manifest"`
	Chunks   []octets        `json:"chunks"`
	Commit   octets          `json:"commit"`
	Receipt  octets          `json:"receipt"`
	APDUs    []octets        `json:"apdus"`
	CMAC     octets          `json:"cmac"`
	RMAC     []octets        `json:"rmac"`
	First    []octets        `json:"first_plain"`
	Card     octets          `json:"card_crypt"`
	Chal     octets          `json:"challenge"`
	Packet   octets          `json:"packet"`
	CNTR     octets          `json:"cntr"`
	RSC      octets          `json:"rsc"`
	Data     octets          `json:"data"`
}

// level is a security level, written as a number or as two hexadecimal digits.
type level byte

// UnmarshalJSON implements json.Unmarshaler.
func (l *level) UnmarshalJSON(b []byte) error {
	var n byte
	if json.Unmarshal(b, &n) == nil {
		*l = level(n)
		return nil
	}
	var o octets
	if err := json.Unmarshal(b, &o); err != nil || len(o) != 1 {
		return fmt.Errorf("%s is not a security level", b)
	}
	*l = level(o[0])
	return nil
}

// Standards are the built-in known answers: vectors of public test suites, each
// naming its source, and self-made ones on which two independent programs agree.
//
//go:embed testdata/standards.json
var Standards []byte
