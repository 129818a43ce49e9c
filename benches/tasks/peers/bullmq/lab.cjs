// BullMQ for `benches/tasks/peers.sh`: `node lab.cjs publish|worker PORT QUEUE COUNT|CONCURRENCY [remove]`.
const { Queue, Worker } = require('bullmq');

const [what, port, queue, number, remove] = process.argv.slice(2);
const connection = { host: '127.0.0.1', port: Number(port) };

async function publish(count) {
  const jobs = new Queue(queue, { connection, defaultJobOptions: { removeOnComplete: remove === 'remove' } });
  for (let from = 0; from < count; from += 1000) {
    await jobs.addBulk(Array.from({ length: Math.min(1000, count - from) }, (_, at) => ({ name: 'noop', data: { number: from + at } })));
  }
  await jobs.close();
}

if (what === 'publish') {
  publish(Number(number));
} else {
  const worker = new Worker(queue, async () => {}, { connection, concurrency: Number(number) });
  worker.on('error', (error) => console.error(error));
  process.on('SIGTERM', () => worker.close().then(() => process.exit(0)));
}
