// A PKCS#11 module that passes every call on to another module, and fails one function
// when it is told to: before the other module has the call, or after, so that the call
// happened and its answer is lost; or keeps one from coming back at all. It is told by a
// file that the test and it map.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include "pkcs11go.h"

// The order of FUNCTIONS is that of Functions in faulty.go.
#define FUNCTIONS(X) X(C_Login) X(C_OpenSession) X(C_CloseSession) X(C_GetSessionInfo) X(C_GetTokenInfo) \
	X(C_FindObjectsInit) X(C_FindObjects) X(C_FindObjectsFinal) X(C_GetAttributeValue) X(C_GenerateRandom) \
	X(C_GenerateKey) X(C_DeriveKey) X(C_DestroyObject) X(C_WrapKey) X(C_EncryptInit) X(C_Encrypt) \
	X(C_DecryptInit) X(C_Decrypt) X(C_SignInit) X(C_Sign) \
	X(C_Initialize) X(C_GetSlotList)

#define NUMBER(f) N_##f,
enum { FUNCTIONS(NUMBER) COUNT };

// control is what the file holds; faulty.go writes it and reads it.
struct control {
	int64_t function; // its number; -1 for none
	int64_t after;    // 0: before the call, 1: after it
	int64_t code;     // CK_RV that is returned instead
	int64_t left;     // how many calls fail still
	int64_t hits;     // how many failed
	int64_t hanging;  // number of the function whose calls do not come back; -1 for none
	int64_t hangs;    // how many of them still begin to hang
	int64_t calls[COUNT];
};

static struct control *told;
static CK_FUNCTION_LIST ours;
static CK_FUNCTION_LIST *real;

static int strikes(int function, int after) {
	if (__atomic_load_n(&told->function, __ATOMIC_ACQUIRE) != function || told->after != after)
		return 0;
	if (__atomic_sub_fetch(&told->left, 1, __ATOMIC_ACQ_REL) < 0)
		return 0;
	__atomic_add_fetch(&told->hits, 1, __ATOMIC_ACQ_REL);
	return 1;
}

static void hang(int function) {
	if (__atomic_load_n(&told->hanging, __ATOMIC_ACQUIRE) != function ||
	    __atomic_sub_fetch(&told->hangs, 1, __ATOMIC_ACQ_REL) < 0)
		return;
	while (__atomic_load_n(&told->hanging, __ATOMIC_ACQUIRE) == function)
		usleep(1000);
}

#define PASS(name, params, args) \
	static CK_RV shim_##name params { \
		__atomic_add_fetch(&told->calls[N_##name], 1, __ATOMIC_ACQ_REL); \
		hang(N_##name); \
		if (strikes(N_##name, 0)) return told->code; \
		CK_RV rv = real->name args; \
		return strikes(N_##name, 1) ? (CK_RV)told->code : rv; \
	}

PASS(C_Login, (CK_SESSION_HANDLE s, CK_USER_TYPE u, CK_UTF8CHAR_PTR p, CK_ULONG n), (s, u, p, n))
PASS(C_OpenSession, (CK_SLOT_ID i, CK_FLAGS f, CK_VOID_PTR a, CK_NOTIFY c, CK_SESSION_HANDLE_PTR s), (i, f, a, c, s))
PASS(C_CloseSession, (CK_SESSION_HANDLE s), (s))
PASS(C_GetSessionInfo, (CK_SESSION_HANDLE s, CK_SESSION_INFO_PTR i), (s, i))
PASS(C_GetTokenInfo, (CK_SLOT_ID s, CK_TOKEN_INFO_PTR i), (s, i))
PASS(C_FindObjectsInit, (CK_SESSION_HANDLE s, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, t, n))
PASS(C_FindObjects, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR o, CK_ULONG m, CK_ULONG_PTR n), (s, o, m, n))
PASS(C_FindObjectsFinal, (CK_SESSION_HANDLE s), (s))
PASS(C_GetAttributeValue, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR t, CK_ULONG n), (s, o, t, n))
PASS(C_GenerateRandom, (CK_SESSION_HANDLE s, CK_BYTE_PTR r, CK_ULONG n), (s, r, n))
PASS(C_GenerateKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o), (s, m, t, n, o))
PASS(C_DeriveKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE b, CK_ATTRIBUTE_PTR t, CK_ULONG n, CK_OBJECT_HANDLE_PTR o), (s, m, b, t, n, o))
PASS(C_DestroyObject, (CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o), (s, o))
PASS(C_WrapKey, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE w, CK_OBJECT_HANDLE k, CK_BYTE_PTR o, CK_ULONG_PTR n), (s, m, w, k, o, n))
PASS(C_EncryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k))
PASS(C_Encrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m))
PASS(C_DecryptInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k))
PASS(C_Decrypt, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m))
PASS(C_SignInit, (CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k), (s, m, k))
PASS(C_Sign, (CK_SESSION_HANDLE s, CK_BYTE_PTR d, CK_ULONG n, CK_BYTE_PTR o, CK_ULONG_PTR m), (s, d, n, o, m))
PASS(C_Initialize, (CK_VOID_PTR a), (a))
PASS(C_GetSlotList, (CK_BBOOL t, CK_SLOT_ID_PTR s, CK_ULONG_PTR n), (t, s, n))

static CK_RV list(CK_FUNCTION_LIST_PTR_PTR out) {
	*out = &ours;
	return CKR_OK;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR out) {
	if (real) return list(out);
	const char *module = getenv("CARDKMS_FAULTY_MODULE"), *file = getenv("CARDKMS_FAULTY_CONTROL");
	if (!module || !file) return CKR_GENERAL_ERROR;
	int fd = open(file, O_RDWR);
	if (fd < 0) return CKR_GENERAL_ERROR;
	told = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	void *lib = dlopen(module, RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (told == MAP_FAILED || !get || get(&real) != CKR_OK) return CKR_GENERAL_ERROR;
	ours = *real;
	ours.C_GetFunctionList = list;
#define REPLACE(f) ours.f = shim_##f;
	FUNCTIONS(REPLACE)
	return list(out);
}
