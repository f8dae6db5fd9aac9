require("http").createServer((_, response) => response.end("node answers\n")).listen(3000);
