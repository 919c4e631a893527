/* A PKCS#11 module that behaves like others' devices, on top of SoftHSM2. Files in $VENDOR_DIR say how:
 *   iv     `written`: the token replaces the caller's IV; `appended`: it makes one of 16 bytes and puts it after the tag
 *   fault  `NAME RV [once]`: function NAME (encrypt, decrypt, sign, login, find, or all) returns RV, hexadecimal
 *   hang   `NAME`: function NAME takes three seconds
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef unsigned char byte_t;
typedef ulong_t (*any_t)();

struct functions { byte_t version[2]; any_t at[68]; };
struct mechanism { ulong_t type; void *parameter; ulong_t length; };
struct gcm { byte_t *iv; ulong_t iv_len, iv_bits; byte_t *aad; ulong_t aad_len, tag_bits; };

enum { LOGIN = 18, FIND_INIT = 26, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT = 34, SIGN = 43 };

static struct functions real, ours;
static __thread int appending;
static __thread byte_t own_iv[16];

static int read_file(const char *name, char *out, size_t size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", getenv("VENDOR_DIR"), name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t n = fread(out, 1, size - 1, file);
    out[n] = 0;
    fclose(file);
    return 1;
}

static ulong_t misbehave(const char *name) {
    char text[128], who[32], once[32];
    if (read_file("hang", text, sizeof text) && strncmp(text, name, strlen(name)) == 0) sleep(3);
    if (!read_file("fault", text, sizeof text)) return 0;
    ulong_t rv = 0;
    int n = sscanf(text, "%31s %lx %31s", who, &rv, once);
    int all = strcmp(who, "all") == 0 && strcmp(name, "login") != 0;
    if (n < 2 || (!all && strcmp(who, name) != 0)) return 0;
    if (n == 3) {
        char path[4096];
        snprintf(path, sizeof path, "%s/fault", getenv("VENDOR_DIR"));
        unlink(path);
    }
    return rv;
}

static ulong_t encrypt_init(ulong_t session, struct mechanism *mechanism, ulong_t key) {
    char mode[32] = "";
    appending = 0;
    if (mechanism->type != 0x1087 || !read_file("iv", mode, sizeof mode)) {
        return real.at[ENCRYPT_INIT](session, mechanism, key);
    }
    struct gcm *given = mechanism->parameter;
    if (strncmp(mode, "written", 7) == 0) {
        if (getrandom(given->iv, given->iv_len, 0) < 0) return 5;
        return real.at[ENCRYPT_INIT](session, mechanism, key);
    }
    if (getrandom(own_iv, sizeof own_iv, 0) < 0) return 5;
    struct gcm own = *given;
    own.iv = own_iv;
    own.iv_len = sizeof own_iv;
    own.iv_bits = 8 * sizeof own_iv;
    struct mechanism changed = {mechanism->type, &own, sizeof own};
    appending = 1;
    return real.at[ENCRYPT_INIT](session, &changed, key);
}

static ulong_t encrypt(ulong_t session, byte_t *in, ulong_t in_len, byte_t *out, ulong_t *out_len) {
    ulong_t rv = misbehave("encrypt");
    if (rv) return rv;
    if (!appending) return real.at[ENCRYPT](session, in, in_len, out, out_len);
    ulong_t len = out ? *out_len - sizeof own_iv : 0;
    rv = real.at[ENCRYPT](session, in, in_len, out, &len);
    if (rv) return rv;
    if (out) memcpy(out + len, own_iv, sizeof own_iv);
    *out_len = len + sizeof own_iv;
    return 0;
}

static ulong_t decrypt(ulong_t session, byte_t *in, ulong_t in_len, byte_t *out, ulong_t *out_len) {
    ulong_t rv = misbehave("decrypt");
    return rv ? rv : real.at[DECRYPT](session, in, in_len, out, out_len);
}

static ulong_t sign(ulong_t session, byte_t *in, ulong_t in_len, byte_t *out, ulong_t *out_len) {
    ulong_t rv = misbehave("sign");
    return rv ? rv : real.at[SIGN](session, in, in_len, out, out_len);
}

static ulong_t find_init(ulong_t session, void *template, ulong_t count) {
    ulong_t rv = misbehave("find");
    return rv ? rv : real.at[FIND_INIT](session, template, count);
}

static ulong_t login(ulong_t session, ulong_t who, byte_t *pin, ulong_t len) {
    ulong_t rv = misbehave("login");
    char path[4096];
    snprintf(path, sizeof path, "%s/logins", getenv("VENDOR_DIR"));
    FILE *file = fopen(path, "a");
    if (file) { fputs("login\n", file); fclose(file); }
    return rv ? rv : real.at[LOGIN](session, who, pin, len);
}

ulong_t C_GetFunctionList(struct functions **list) {
    void *module = dlopen(getenv("VENDOR_TARGET"), RTLD_NOW);
    if (!module) return 5;
    any_t get = (any_t)dlsym(module, "C_GetFunctionList");
    struct functions *found;
    ulong_t rv = get ? get(&found) : 5;
    if (rv) return rv;
    real = ours = *found;
    ours.at[ENCRYPT_INIT] = (any_t)encrypt_init;
    ours.at[ENCRYPT] = (any_t)encrypt;
    ours.at[DECRYPT] = (any_t)decrypt;
    ours.at[SIGN] = (any_t)sign;
    ours.at[FIND_INIT] = (any_t)find_init;
    ours.at[LOGIN] = (any_t)login;
    *list = &ours;
    return 0;
}
