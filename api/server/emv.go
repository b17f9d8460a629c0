package server

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/http"

	"cardkms/api"
	"cardkms/derive/emv"
	"cardkms/kms"
	"cardkms/kms/apdu"
	"cardkms/kms/fault"
)

func (s *server) registerEMV() {
	at := func(id, path, summary string, does kms.Operation) route {
		return route{id: id, method: http.MethodPost, path: issuerPath + "/emv/" + path, tag: "emv", summary: summary, does: does, keyed: true, kept: true}
	}
	register(s, at("verifyARQC", "arqc:verify", "Verify an application cryptogram, once", kms.EMVVerify), s.verifyARQC)
	register(s, at("answerARQC", "arpc", "Verify an ARQC and answer it", kms.EMVAnswer), s.answerARQC)
	register(s, at("secureEMVScript", "scripts", "Verify an ARQC, answer it and secure an issuer script", kms.EMVScriptOp), s.secureEMVScript)
}

func transactionOf(issuer string, b api.EMVTransaction) kms.Transaction {
	return kms.Transaction{
		Issuer: issuer, Profile: b.Profile, Key: b.Key, DKI: byte(b.DKI), Card: emv.Card{PAN: b.PAN, PSN: b.PSN},
		Input: emv.Input{ATC: binary.BigEndian.Uint16(b.ATC), UN: b.UN, ARQC: b.ARQC}, Data: b.Data,
	}
}

func decisionOf(issuer string, b api.EMVDecision) kms.ARPCInput {
	return kms.ARPCInput{Transaction: transactionOf(issuer, b.EMVTransaction), Code: b.Code, Proprietary: b.Proprietary}
}

type verifyARQCInput struct {
	Change
	InIssuer
	Body api.EMVTransaction
}

func (s *server) verifyARQC(ctx context.Context, r kms.Request, in *verifyARQCInput) (*answer[api.EMVVerified], error) {
	err := s.svc.VerifyARQC(ctx, r, transactionOf(in.Issuer, in.Body))
	return answered(api.EMVVerified{Verified: err == nil}), err
}

type answerARQCInput struct {
	Change
	InIssuer
	Body api.EMVDecision
}

func (s *server) answerARQC(ctx context.Context, r kms.Request, in *answerARQCInput) (*answer[api.EMVResponse], error) {
	arpc, err := s.svc.ARPC(ctx, r, decisionOf(in.Issuer, in.Body))
	return answered(api.EMVResponse{ARPC: arpc}), err
}

type secureEMVScriptInput struct {
	Change
	InIssuer
	Body api.EMVScript
}

func (s *server) secureEMVScript(ctx context.Context, r kms.Request, in *secureEMVScriptInput) (*answer[api.EMVSecured], error) {
	commands := make([]emv.Command, len(in.Body.Commands))
	for i, c := range in.Body.Commands {
		plain, err := apdu.ParseCommand(c.Command)
		if err != nil {
			return nil, fault.New(fault.InvalidInput, fmt.Sprintf("command %d is no C-APDU", i+1))
		}
		if plain.Ne != 0 {
			return nil, fault.New(fault.InvalidInput, fmt.Sprintf("command %d asks for data; a script's commands have no Le", i+1))
		}
		commands[i] = emv.Command{CLA: plain.CLA, INS: plain.INS, P1: plain.P1, P2: plain.P2, Data: plain.Data, Encipher: c.Encipher}
	}
	out, err := s.svc.SecureEMVScript(ctx, r, kms.EMVScriptInput{
		ARPCInput: decisionOf(in.Issuer, in.Body.EMVDecision), SMI: in.Body.SMI, SMC: in.Body.SMC, Commands: commands,
	})
	secured := api.EMVSecured{ARPC: out.ARPC}
	for _, c := range out.Commands {
		secured.Commands = append(secured.Commands, c)
	}
	return answered(secured), err
}
