// Loaded before each script: Node follows HTTPS_PROXY by itself from version 24 on; for Node 20 these are the documented
// ways to the same, for its fetch (MSAL, the Graph client, okta-auth-js) and for its https module. The clients are not
// touched. Azure Identity reads HTTPS_PROXY itself, and so does the Okta management SDK, but not for its token requests.
import https from 'node:https'
import { HttpsProxyAgent } from 'https-proxy-agent'
import { EnvHttpProxyAgent, setGlobalDispatcher } from 'undici'

setGlobalDispatcher(new EnvHttpProxyAgent())
https.globalAgent = new HttpsProxyAgent(process.env.HTTPS_PROXY)
