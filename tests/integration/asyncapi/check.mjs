// Reads an AsyncAPI document with the reference parser and prints how many channels it has and what is wrong.
import { readFileSync } from 'node:fs'
import { Parser } from '@asyncapi/parser'

const { document, diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'))
const wrong = diagnostics.filter(({ severity }) => severity <= 1)
console.log(JSON.stringify({ channels: document?.channels().length ?? 0, wrong: wrong.slice(0, 20) }))
