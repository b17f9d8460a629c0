package server

import (
	"bytes"
	"context"
	"net/http"
	"testing"

	"cardkms/api"
	"cardkms/derive"
	"cardkms/derive/derivetest"
	"cardkms/derive/diversify"
	"cardkms/kms"
	"cardkms/kms/key"
)

// TestOTA secures a packet through the handler and verifies its response, under a KID
// that is computed here.
func TestOTA(t *testing.T) {
	w := newWorld(t)
	n := kms.NewKey{Issuer: "acme", Name: "ota", Usage: key.OTA, Algorithm: key.AES128, CardAlgorithm: key.AES128, Diversification: diversify.KDF3, KVN: 1}
	_, err := w.service.LoadKey(context.Background(), "test", n, maker{w, map[key.Part][]byte{key.Master: series(0x60)}})
	must(t, err)
	in := api.OTAPacket{OTACard: otaCard(), SPI: api.Hex{0x12, 0x09}, TAR: api.Hex{0xB0, 0x00, 0x11}, Data: api.Hex{0xA5, 0x5A}}
	ask := ask{as: uriUpdate, method: http.MethodPost, path: acme + "/ota/packets", body: in, key: newKey()}
	first := want[api.OTASecured](w, w.do(ask))
	if first.Counter.String() != "0000000001" || !bytes.Equal(first.Packet[2:16], []byte{0x15, 0x12, 0x09, 0x12, 0x12, 0xB0, 0x00, 0x11, 0, 0, 0, 0, 1, 0}) {
		t.Errorf("%+v", first)
	}
	if again := want[api.OTASecured](w, w.do(ask)); !bytes.Equal(again.Packet, first.Packet) {
		t.Error("a repeated request got another packet")
	}
	if next := post[api.OTASecured](w, acme+"/ota/packets", in); next.Counter.String() != "0000000002" {
		t.Errorf("%+v", next)
	}
	response := w.otaResponse(t, []byte{0x00, 0x14, 0x12, 0xB0, 0x00, 0x11}, []byte{0, 0, 0, 0, 1, 0, 0x07}, []byte{0x90})
	answer := api.OTAResponse{OTACard: otaCard(), Counter: first.Counter, Response: response}
	if got := post[api.OTAVerified](w, acme+"/ota/responses:verify", answer); got.Status != 7 || got.Data.String() != "90" {
		t.Errorf("%+v", got)
	}
	ask.path, ask.body, ask.key = acme+"/ota/responses:verify", answer, newKey()
	refused(t, w.do(ask), "card_counter_not_rising")
}

// otaResponse packs what a card answers, under its KID.
func (w *world) otaResponse(t *testing.T, head, counted, data []byte) api.Hex {
	t.Helper()
	var tok derivetest.Token
	kid, err := diversify.Card(diversify.KDF3, tok.Add("ota", key.AES128, derive.Static, series(0x60)), otaCard().KDD,
		diversify.Target{Purpose: diversify.MAC, Class: derive.SessionMAC, Algorithm: key.AES128})
	must(t, err)
	cc, err := tok.MAC(context.Background(), kid, bytes.Join([][]byte{{0x02, 0x71, 0x00}, head, counted, data}, nil))
	must(t, err)
	return bytes.Join([][]byte{head, counted, cc[:8], data}, nil)
}
