package server

import (
	"context"
	"encoding/binary"
	"net/http"

	"cardkms/api"
	"cardkms/kms"
)

func (s *server) registerOTA() {
	at := func(id, path, summary string, does kms.Operation) route {
		return route{id: id, method: http.MethodPost, path: issuerPath + "/ota/" + path, tag: "ota", summary: summary, does: does, keyed: true, kept: true}
	}
	register(s, at("secureOTAPacket", "packets", "Secure one packet for a card over the air", kms.OTAPacketOp), s.secureOTAPacket)
	register(s, at("verifyOTAResponse", "responses:verify", "Verify a card's proof of receipt, once", kms.OTAVerify), s.verifyOTAResponse)
}

func otaCardOf(issuer string, c api.OTACard) kms.OTACard {
	return kms.OTACard{Issuer: issuer, Key: c.Key, KVN: byte(c.KVN), KDD: c.KDD}
}

// counterBytes is the length of CNTR, which stands in 8 bytes of a number.
const counterBytes = 5

type secureOTAPacketInput struct {
	Change
	InIssuer
	Body api.OTAPacket
}

func (s *server) secureOTAPacket(ctx context.Context, r kms.Request, in *secureOTAPacketInput) (*answer[api.OTASecured], error) {
	b := in.Body
	out, err := s.svc.SecureOTAPacket(ctx, r, kms.OTAPacketInput{
		OTACard: otaCardOf(in.Issuer, b.OTACard), SPI: [2]byte(b.SPI), TAR: [3]byte(b.TAR), Data: b.Data,
	})
	counter := binary.BigEndian.AppendUint64(nil, out.Counter)[8-counterBytes:]
	return answered(api.OTASecured{Packet: out.Packet, Counter: counter}), err
}

type verifyOTAResponseInput struct {
	Change
	InIssuer
	Body api.OTAResponse
}

func (s *server) verifyOTAResponse(ctx context.Context, r kms.Request, in *verifyOTAResponseInput) (*answer[api.OTAVerified], error) {
	b := in.Body
	counter := binary.BigEndian.Uint64(append(make([]byte, 8-counterBytes), b.Counter...))
	out, err := s.svc.VerifyOTAResponse(ctx, r, kms.OTAResponseInput{OTACard: otaCardOf(in.Issuer, b.OTACard), Counter: counter, Response: b.Response})
	return answered(api.OTAVerified{Status: api.HexByte(out.Status), Data: out.Data}), err
}
