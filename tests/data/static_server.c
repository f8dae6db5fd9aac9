/* A web server without libraries: answers every request at $PORT with one line. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] =
    "HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\ndistroless answers\n";

int main(void)
{
    const char *port = getenv("PORT");
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port ? atoi(port) : 8080)};
    char request[4096];

    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 16))
        return 1;
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0)
            continue;
        if (read(connection, request, sizeof request) > 0)
            (void)!write(connection, ANSWER, strlen(ANSWER));
        shutdown(connection, SHUT_WR);
        close(connection);
    }
}
