// In front of OpenSSL's own functions (LD_PRELOAD): whoever makes a connection offers h2 in it and shows the certificate
// that CLIENT_CERTIFICATE and CLIENT_KEY name. Scanners do neither by themselves, and so would see a shut door.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;

enum { PEM = 1 };

SSL *SSL_new(SSL_CTX *context) {
    SSL *(*make)(SSL_CTX *) = (SSL * (*)(SSL_CTX *)) dlsym(RTLD_NEXT, "SSL_new");
    int (*offer)(SSL *, const unsigned char *, unsigned) =
        (int (*)(SSL *, const unsigned char *, unsigned))dlsym(RTLD_NEXT, "SSL_set_alpn_protos");
    int (*show)(SSL *, const char *, int) =
        (int (*)(SSL *, const char *, int))dlsym(RTLD_NEXT, "SSL_use_certificate_file");
    int (*sign)(SSL *, const char *, int) =
        (int (*)(SSL *, const char *, int))dlsym(RTLD_NEXT, "SSL_use_PrivateKey_file");
    SSL *made = make(context);
    const char *certificate = getenv("CLIENT_CERTIFICATE"), *key = getenv("CLIENT_KEY");
    if (made) offer(made, (const unsigned char *)"\2h2", 3);
    if (made && certificate && key && show(made, certificate, PEM) == 1) sign(made, key, PEM);
    return made;
}
