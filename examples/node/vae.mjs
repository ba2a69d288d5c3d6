// Ask a vaeport server from Node, with nothing of ours but the .proto: what it serves, the embedding of an image, samples.
//
// The messages and the service are loaded from protos/vaeport/v1/vae.proto when the program starts; no code is generated.
// Every language that gRPC has a library for can do the same.
//
//     make serve                                           # in another terminal
//     cd examples/node && npm ci && node vae.mjs localhost:50051
//
// To use it elsewhere: take the .proto and PROTO_OPTIONS along, put your pixels into `images`, and replace
// `createInsecure` by `grpc.credentials.createSsl(...)` for a server with TLS. A server that demands a token takes it as
// the metadata `authorization: Bearer ...`.

import { createHash } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import grpc from '@grpc/grpc-js'
import protoLoader from '@grpc/proto-loader'

const PROTO = fileURLToPath(new URL('../../protos/vaeport/v1/vae.proto', import.meta.url))
// Names as the .proto has them, and 64 bits as strings: a seed does not fit into a JavaScript number.
const PROTO_OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true }
const TIMEOUT_MS = 10_000
const SEED = '18446744073709551615' // the largest one
const COUNT = 4

async function main(address, proto = PROTO) {
  const { ask, close } = connect(address, proto)
  try {
    const { models: [model] } = await ask('Info', {})
    const shape = model.image_shape.map(Number)
    console.log(`${model.name} version ${model.version}: images [${shape}], ${model.latent_dim} latent dimensions`)

    const encoded = await ask('Encode', { model: model.name, images: greyImage(shape) })
    console.log(`mean ${describe(encoded.mean)}`)
    console.log(`log_var ${describe(encoded.log_var)}`)

    const sampled = await ask('Sample', { model: model.name, count: COUNT, seed: SEED })
    console.log(`samples ${describe(sampled.images)} of seed ${sampled.seed}`)
  } finally {
    close()
  }
}

/** A client whose calls are promises that end within TIMEOUT_MS. */
function connect(address, proto) {
  const { VaeService } = grpc.loadPackageDefinition(protoLoader.loadSync(proto, PROTO_OPTIONS)).vaeport.v1
  const client = new VaeService(address, grpc.credentials.createInsecure())
  const ask = (method, request) =>
    promisify(client[method]).call(client, request, { deadline: Date.now() + TIMEOUT_MS })
  return { ask, close: () => client.close() }
}

/** One image of a middle grey as bytes, each of which means value / 255; rows come first in the shape. */
function greyImage(shape) {
  const pixels = shape.reduce((product, axis) => product * axis, 1)
  return { dtype: 'DTYPE_UINT8', shape: [1, ...shape], data: Buffer.alloc(pixels, 128) }
}

/** The numbers of a tensor in row-major order; `data` is little-endian, as DataView reads it when asked to. */
function floats({ data }) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength)
  return Float32Array.from({ length: data.byteLength / 4 }, (_, index) => view.getFloat32(4 * index, true))
}

function describe(tensor) {
  const digest = createHash('sha256').update(tensor.data).digest('hex').slice(0, 16)
  return `[${tensor.shape}] from ${floats(tensor)[0].toFixed(6)} on, sha256 ${digest}`
}

const [address = 'localhost:50051', proto] = process.argv.slice(2)
main(address, proto).catch((error) => {
  console.error(`vae: error: ${error.details ?? error.message}`) // `details` is what the server says
  process.exitCode = 1
})
