// Preloaded into the peers written in JavaScript: they listen on loopback alone, and not on every interface.
const net = require("net");

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { port, host: "127.0.0.1" }, rest.find((one) => typeof one === "function"));
};
