// Preloaded (`node --import`) into servers of others that would listen on every interface and say so each in their own
// words: here they listen on 127.0.0.1 and print `listening PORT`, like ours.

import { Server } from 'node:net';

const listen = Server.prototype.listen;

Server.prototype.listen = function (port, ...rest) {
  this.once('listening', () => console.log(`listening ${this.address().port}`));
  return listen.call(this, { port: Number(port), host: '127.0.0.1' }, ...rest.filter((argument) => typeof argument === 'function'));
};
